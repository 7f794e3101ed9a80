//! Registries that say when to come again.

use super::mirrors::options_without_hub;
use super::push::push_by;
use super::*;
use futures_util::future::BoxFuture;
use std::time::Instant;

/// Time that passes when somebody sleeps, at once.
struct Dream {
    now: Mutex<Instant>,
    slept: Mutex<Vec<Duration>>,
}

impl Dream {
    fn new() -> Arc<Dream> {
        Arc::new(Dream {
            now: Mutex::new(Instant::now()),
            slept: Mutex::default(),
        })
    }

    fn slept(&self) -> Duration {
        self.slept.lock().expect("not poisoned").iter().sum()
    }
}

impl Time for Dream {
    fn now(&self) -> Instant {
        *self.now.lock().expect("not poisoned")
    }

    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        *self.now.lock().expect("not poisoned") += wait;
        self.slept.lock().expect("not poisoned").push(wait);
        Box::pin(tokio::task::yield_now())
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(1);

fn dreaming(options: RegistryOptions) -> (HttpRegistry, Arc<Dream>) {
    let dream = Dream::new();
    let registry = HttpRegistry::with_time(options, FIRST_WAIT, dream.clone());
    (registry.expect("good options"), dream)
}

/// Who is told, and what they were told.
fn listener() -> (Waits, Arc<Mutex<Vec<u64>>>) {
    let told: Arc<Mutex<Vec<u64>>> = Arc::default();
    let log = told.clone();
    let waits = move |seconds| log.lock().expect("not poisoned").push(seconds);
    (Arc::new(waits), told)
}

const BUSY: &str = "429 Too Many Requests";

#[tokio::test]
async fn nobody_is_asked_before_the_time_they_named() {
    for (after, wait) in [
        ("Retry-After: 62\r\n", 62),
        (
            "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: Wed, 21 Oct 2015 07:33:00 GMT\r\n",
            300,
        ),
    ] {
        let fake = Fake::start(move |_, asked| match asked.times {
            0 => response(BUSY, after, b""),
            1 => response("503 Service Unavailable", "Retry-After: 2\r\n", b""),
            _ => response("200 OK", "", MANIFEST),
        })
        .await;
        let (registry, dream) = dreaming(RegistryOptions::default());
        let (waits, told) = listener();
        let name = reference(&format!("{}/a", fake.address));
        let telling = registry.telling(waits);
        telling.manifest(&name, None).await.expect("the third time");
        assert_eq!(dream.slept(), Duration::from_secs(wait + 2));
        let told = told.lock().expect("not poisoned").clone();
        // At first, each tenth of the many, and the last ones singly.
        let mut expected = vec![wait];
        expected.extend((11..wait).rev().filter(|left| left.is_multiple_of(10)));
        expected.extend((1..=10).rev().chain([2, 1]));
        assert_eq!(told, expected);
        assert_eq!(fake.seen().len(), 3);
    }
}

#[tokio::test]
async fn one_answer_holds_for_all_that_is_asked_meanwhile() {
    let content = b"the content".as_slice();
    let fake = Fake::start(move |_, asked| match asked.path.contains("/blobs/") {
        true => response("200 OK", "", content),
        false if asked.times == 0 => response(BUSY, "Retry-After: 100\r\n", b""),
        false => response("200 OK", "", MANIFEST),
    })
    .await;
    let options = RegistryOptions {
        attempts: Some(1),
        ..RegistryOptions::default()
    };
    let (registry, dream) = dreaming(options);
    let name = reference(&format!("{}/a", fake.address));
    let error = registry.manifest(&name, None).await.expect_err("once");
    assert!(error.to_string().starts_with("toomanyrequests"), "{error}");
    assert_eq!(dream.slept(), Duration::ZERO);
    // Somebody else signs in differently; what counts for one user may not for another.
    registry.manifest(&name, Some(&user())).await.expect("good");
    assert_eq!(dream.slept(), Duration::ZERO);
    let got = fetch_blob(&registry, &name, content, None).await;
    assert_eq!(got.expect("good"), content);
    assert_eq!(dream.slept(), Duration::from_secs(100));
}

#[tokio::test]
async fn who_wants_to_be_left_alone_for_long_is_not_asked_again() {
    let far = "Retry-After: 301\r\n";
    let fake = Fake::start(move |host, asked| match asked.path.as_str() {
        path if path.starts_with("/token") => response("503 Service Unavailable", far, b""),
        path if path.starts_with("/v2/signed/") => {
            let realm = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"\r\n");
            response("401 Unauthorized", &realm, b"")
        }
        _ if asked.method == "HEAD" => response("404 Not Found", "", b""),
        _ => response(
            BUSY,
            far,
            b"{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"slow down\"}]}",
        ),
    })
    .await;
    let (registry, dream) = dreaming(RegistryOptions::default());
    let name = reference(&format!("{}/a", fake.address));
    let error = registry.manifest(&name, None).await.expect_err("too long");
    assert_eq!(
        engine::error::full_message(&error),
        format!(
            "{} answered 429 Too Many Requests and wants to be asked again in 301 seconds at the earliest; Berth waits 300 seconds at most: try again then: toomanyrequests: slow down",
            fake.address
        )
    );
    assert_eq!(fake.seen().len(), 1);
    // A push, which would go on without a mount, and a search, which would go on to the catalog.
    let pushed = push_by(&registry, &fake, b"the blob", &["other"], None).await;
    let error = pushed.outcome.expect_err("too long");
    assert!(matches!(error, RegistryError::LongWait { .. }), "{error}");
    assert_eq!(fake.seen().len(), 3);
    // A token server's word counts, too.
    let name = reference(&format!("{}/signed", fake.address));
    let error = registry.manifest(&name, None).await.expect_err("too long");
    assert!(matches!(error, RegistryError::LongWait { .. }), "{error}");
    assert_eq!(dream.slept(), Duration::ZERO);
    let asked = fake.seen().len();
    let error = registry
        .search(&fake.address, "a", 5, None)
        .await
        .expect_err("too long");
    assert!(matches!(error, RegistryError::LongWait { .. }), "{error}");
    assert_eq!(fake.seen().len(), asked + 1);
}

#[tokio::test]
async fn a_token_server_that_is_busy_is_asked_again_when_it_said() {
    let fake = Fake::start(|host, asked| match asked.path.as_str() {
        path if path.starts_with("/token") && asked.times == 0 => {
            response(BUSY, "Retry-After: 7\r\n", b"")
        }
        path if path.starts_with("/token") => response("200 OK", "", b"{\"token\":\"t0k\"}"),
        _ if asked.header("authorization") == "Bearer t0k" => response("200 OK", "", MANIFEST),
        _ => {
            let realm = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"\r\n");
            response("401 Unauthorized", &realm, b"")
        }
    })
    .await;
    let (registry, dream) = dreaming(RegistryOptions::default());
    let name = reference(&format!("{}/a", fake.address));
    registry.manifest(&name, None).await.expect("in the end");
    assert_eq!(dream.slept(), Duration::from_secs(7));
}

#[tokio::test]
async fn a_mirror_to_be_left_alone_is_passed_over_and_the_first_to_be_free_is_waited_for() {
    let mirror = async |seconds: u64| {
        Fake::start(move |_, asked| match asked.times {
            0 => response(BUSY, &format!("Retry-After: {seconds}\r\n"), b""),
            _ => response("200 OK", "", MANIFEST),
        })
        .await
    };
    let (slow, quick, far) = (mirror(90).await, mirror(20).await, mirror(4000).await);
    let options = options_without_hub(&[&slow, &far, &quick]).await;
    let (registry, dream) = dreaming(options);
    registry
        .manifest(&reference("alpine"), None)
        .await
        .expect("the quick one");
    assert_eq!(dream.slept(), Duration::from_secs(20));
    // Seventy seconds are left of the slow one's, and whoever can serve need not wait for them.
    registry
        .manifest(&reference("alpine"), None)
        .await
        .expect("another");
    assert_eq!(dream.slept(), Duration::from_secs(20));
    assert_eq!(slow.seen().len(), 1);
}

#[tokio::test]
async fn a_wait_is_given_up_at_once() {
    let fake = Fake::start(|_, _| response(BUSY, "Retry-After: 200\r\n", b"")).await;
    let registry = HttpRegistry::new(RegistryOptions::default()).expect("good options");
    let (waits, told) = listener();
    let name = reference(&format!("{}/a", fake.address));
    let telling = registry.telling(waits);
    let task = tokio::spawn(async move { telling.manifest(&name, None).await });
    while told.lock().expect("not poisoned").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    task.abort();
    assert!(task.await.expect_err("no answer").is_cancelled());
    assert_eq!(fake.seen().len(), 1);
}
