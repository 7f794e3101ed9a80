//! The authority and what it signed for clients, renewed before they end.

use super::*;
use crate::use_cases::list::Whose;
use time::OffsetDateTime;

/// Puts the store's authority, and the machine's copy, at `days` from its end; returns the certificate.
fn age(place: &Place, machine: &Machine, days: i64) -> String {
    let certs = place.machines.store().certs();
    let read = |file| std::fs::read_to_string(certs.join(file)).unwrap();
    let authority =
        certs::Authority::from_pem(&read(layout::CA_CERT), &read(layout::CA_KEY)).unwrap();
    let now = OffsetDateTime::now_utc();
    let aged = authority.renewed(certs::Validity {
        from: now - time::Duration::days(1080),
        until: now + time::Duration::days(days),
    });
    let aged = aged.unwrap().certificate().to_owned();
    for folder in [&certs, &machine.place.folder] {
        std::fs::write(folder.join(layout::CA_CERT), &aged).unwrap();
    }
    aged
}

fn due(machines: &Machines) -> Vec<(Whose, bool)> {
    let listed = machines.records().unwrap().into_iter();
    listed
        .filter_map(|machine| machine.certificate_due)
        .map(|due| (due.whose, due.is_ours))
        .collect()
}

#[test]
fn an_authority_is_renewed_before_it_ends_and_after() {
    for days in [3, -3] {
        let place = place();
        let (machines, heard) = (&place.machines, Heard::default());
        let machine = machines.create(&request("dev"), &heard).unwrap();
        assert_eq!(due(machines), []);
        let old = age(&place, &machine, days);
        assert_eq!(due(machines), [(Whose::Authority, true)]);

        machines.create(&request("two"), &heard).unwrap();
        assert!(heard.text().contains("Renewing CA"), "{}", heard.text());
        assert_eq!(due(machines), []);
        let path = machines.store().certs().join(layout::CA_CERT);
        let new = std::fs::read_to_string(path).unwrap();
        assert!(new != old && certs::same_authority(&new, &old));
        let copy = std::fs::read_to_string(machine.place.folder.join(layout::CA_CERT)).unwrap();
        assert_eq!(copy, new);
        // Its engine still has the old one, and takes the new one when it starts; its own certificate stays good.
        machine.connect(Duration::from_secs(20)).unwrap();
        let path = machine.place.folder.join(layout::SERVER_CERT);
        let server = std::fs::read(&path).unwrap();
        machines.restart("dev", &heard).unwrap();
        machine.connect(Duration::from_secs(20)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), server);
    }
}

#[test]
fn an_authority_of_others_is_theirs_to_renew() {
    let place = place();
    let elsewhere = place.folder.path().join("company");
    std::fs::create_dir(&elsewhere).unwrap();
    let paths = CertificatePaths {
        ca_cert: elsewhere.join("ca.crt"),
        ca_key: elsewhere.join("ca.key"),
        client_cert: elsewhere.join("client.crt"),
        client_key: elsewhere.join("client.key"),
    };
    let store = MachineStore::new(place.folder.path().join("store"));
    let load = |days| {
        let now = OffsetDateTime::now_utc();
        let validity = certs::Validity {
            from: now - time::Duration::days(1080),
            until: now + time::Duration::days(days),
        };
        let authority = certs::Authority::create("company", validity).unwrap();
        std::fs::write(&paths.ca_cert, authority.certificate()).unwrap();
        std::fs::write(&paths.ca_key, authority.key().expose()).unwrap();
        let heard = Heard::default();
        let loaded = certificates::load_or_make(&store, &paths, &heard);
        let after = std::fs::read_to_string(&paths.ca_cert).unwrap();
        assert_eq!(after, authority.certificate(), "it is not ours to change");
        (loaded, heard.text())
    };
    let (loaded, said) = load(3);
    assert!(loaded.is_ok() && said.contains("Warning: the authority in"));
    let (loaded, _) = load(-3);
    let error = loaded.unwrap_err();
    assert!(error.to_string().contains("ca.crt ended on"), "{error}");
    assert!(error.hint().unwrap().contains("--tls-ca-cert"));
}

#[test]
fn a_clients_certificate_is_renewed_for_all_machines_of_the_authority() {
    let place = place();
    let (machines, heard) = (&place.machines, Heard::default());
    let machine = machines.create(&request("dev"), &heard).unwrap();
    machines.create(&request("guest"), &heard).unwrap();
    let certs = machines.store().certs();
    let paths = CertificatePaths::in_store(machines.store());
    let shared = certificates::load_or_make(machines.store(), &paths, &heard).unwrap();
    let short = shared
        .authority
        .issue_client("ada", certs::Validity::days(3))
        .unwrap();
    let guest = machines.open("guest").unwrap().place.folder;
    for folder in [&certs, &machine.place.folder, &guest] {
        certs::files::write_pair(folder, &short, layout::CLIENT_CERT, layout::CLIENT_KEY).unwrap();
    }
    // The one of another store.
    let stranger = certs::Authority::create("eve", certs::Validity::days(300)).unwrap();
    std::fs::write(guest.join(layout::CA_CERT), stranger.certificate()).unwrap();
    assert_eq!(
        due(machines),
        [(Whose::Client, true), (Whose::Client, false)]
    );

    machines.create(&request("two"), &heard).unwrap();
    assert_eq!(due(machines), [(Whose::Client, false)]);
    for file in [layout::CLIENT_CERT, layout::CLIENT_KEY] {
        let new = std::fs::read(certs.join(file)).unwrap();
        assert_eq!(std::fs::read(machine.place.folder.join(file)).unwrap(), new);
        assert_ne!(std::fs::read(guest.join(file)).unwrap(), new);
    }
    machine.connect(Duration::from_secs(20)).unwrap();
}
