until wget -q -O /www/index.html "http://$NUMBERS/number.html"; do sleep 0.2; done
exec httpd -f -p 80 -h /www
