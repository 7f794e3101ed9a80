use super::*;
use crate::shim::log_writer::{LogWriter, rotated};
use engine::runtime::LogPlan;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

struct Log {
    folder: tempfile::TempDir,
    writer: LogWriter,
}

impl Log {
    fn new(max_size: Option<u64>, max_files: u32) -> Log {
        let folder = tempfile::tempdir().unwrap();
        let plan = LogPlan::JsonFile {
            path: folder.path().join("x.log"),
            max_size,
            max_files,
            compress: false,
            attributes: BTreeMap::new(),
            buffer: None,
        };
        let writer = LogWriter::open(&plan).unwrap().unwrap();
        Log { folder, writer }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("x.log")
    }

    fn line(&mut self, number: usize) {
        let stream = if number.is_multiple_of(2) {
            StreamKind::Stdout
        } else {
            StreamKind::Stderr
        };
        self.writer
            .write(stream, format!("line {number}\n").as_bytes())
            .unwrap();
    }

    fn query(&self, tail: Option<usize>) -> LogQuery {
        LogQuery {
            path: self.path(),
            stdout: true,
            stderr: true,
            since: None,
            until: None,
            tail,
        }
    }
}

fn text(entry: &LogEntry) -> String {
    String::from_utf8(entry.line.to_vec()).unwrap()
}

async fn texts(query: LogQuery) -> Vec<String> {
    let mut entries = JsonFileReader.read(query, None).await.unwrap();
    let mut texts = Vec::new();
    while let Some(batch) = entries.recv().await {
        texts.extend(batch.unwrap().iter().map(text));
    }
    texts
}

fn lines(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("line {number}\n")).collect()
}

#[tokio::test]
async fn everything_the_tail_and_one_stream() {
    let mut log = Log::new(None, 1);
    for number in 0..5000 {
        log.line(number);
    }
    assert_eq!(texts(log.query(None)).await, lines(0..5000));
    for count in [0, 1, 2, 777, 4999, 5000, 9999] {
        let wanted = lines(5000 - count.min(5000)..5000);
        assert_eq!(texts(log.query(Some(count))).await, wanted, "{count}");
    }
    let query = LogQuery {
        stdout: false,
        ..log.query(Some(4))
    };
    assert_eq!(texts(query).await, ["line 4997\n", "line 4999\n"]);
}

#[tokio::test]
async fn nothing_is_written_yet() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new(None, 1);
    let query = LogQuery {
        path: folder.path().join("none.log"),
        ..log.query(Some(3))
    };
    assert!(texts(query).await.is_empty());
    assert!(texts(log.query(Some(3))).await.is_empty());
}

#[tokio::test]
async fn since_and_until() {
    let mut log = Log::new(None, 1);
    log.line(0);
    std::thread::sleep(Duration::from_millis(20));
    let middle = time::OffsetDateTime::now_utc();
    std::thread::sleep(Duration::from_millis(20));
    log.line(1);
    let query = LogQuery {
        since: Some(middle),
        ..log.query(None)
    };
    assert_eq!(texts(query).await, lines(1..2));
    let query = LogQuery {
        until: Some(middle),
        ..log.query(None)
    };
    assert_eq!(texts(query).await, lines(0..1));
}

#[tokio::test]
async fn rotated_and_compressed_files_are_read_in_order() {
    let mut log = Log::new(Some(1000), 10);
    for number in 0..60 {
        log.line(number);
    }
    let second = rotated(&log.path(), 2, false);
    assert!(second.exists());
    let mut encoder = flate2::write::GzEncoder::new(
        std::fs::File::create(rotated(&log.path(), 2, true)).unwrap(),
        flate2::Compression::fast(),
    );
    std::io::copy(&mut std::fs::File::open(&second).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    std::fs::remove_file(&second).unwrap();
    assert_eq!(texts(log.query(None)).await, lines(0..60));
    for count in [1, 13, 20, 35, 59] {
        assert_eq!(
            texts(log.query(Some(count))).await,
            lines(60 - count..60),
            "{count}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_across_rotation_until_the_end() {
    let mut log = Log::new(Some(2000), 50);
    log.line(0);
    log.line(1);
    let (stop, follow) = watch::channel(false);
    let mut entries = JsonFileReader
        .read(log.query(Some(1)), Some(follow))
        .await
        .unwrap();
    let first = entries.recv().await.unwrap().unwrap();
    assert_eq!(first[0].line, "line 1\n");
    let writer = std::thread::spawn(move || {
        for number in 2..500 {
            log.line(number);
            if number % 50 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        stop.send(true).unwrap();
        log
    });
    let mut texts = Vec::new();
    while let Some(batch) = tokio::time::timeout(Duration::from_secs(20), entries.recv())
        .await
        .unwrap()
    {
        texts.extend(batch.unwrap().iter().map(text));
    }
    assert!(
        texts == lines(2..500),
        "{} entries, first {:?}",
        texts.len(),
        texts.first()
    );
    drop(writer.join().unwrap());
}

#[tokio::test]
async fn a_torn_line_does_not_end_the_reading() {
    let mut log = Log::new(None, 1);
    log.line(0);
    let mut bytes = std::fs::read(log.path()).unwrap();
    bytes.extend_from_slice(b"{\"log\":\"half\n\0\0\0\n");
    std::fs::write(log.path(), bytes).unwrap();
    log.line(1);
    assert_eq!(texts(log.query(None)).await, lines(0..2));
}

#[tokio::test]
async fn a_follower_who_leaves_ends_the_work() {
    let log = Log::new(None, 1);
    let (_stop, follow) = watch::channel(false);
    let entries = JsonFileReader
        .read(log.query(None), Some(follow.clone()))
        .await
        .unwrap();
    drop(entries);
    drop(follow);
    tokio::time::timeout(Duration::from_secs(10), _stop.closed())
        .await
        .unwrap();
}
