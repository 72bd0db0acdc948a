use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::host::vitals::Vitals;
use crate::registry::store::Answer;
use crate::registry::store::Mark;
use crate::registry::store::embedded::EmbeddedStore;
use crate::wire;
use crate::wire::Member;

/// The embedded store, which can be taken away, and which counts what it is asked.
struct Fickle {
    store: EmbeddedStore,
    away: AtomicBool,
    /// How long it takes to answer, in ms.
    slow: AtomicU64,
    asked: AtomicU64,
    follows: AtomicU64,
}

impl Fickle {
    fn ask<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            match self.slow.load(Ordering::SeqCst) {
                0 => tokio::task::yield_now().await,
                slow => sleep(Duration::from_millis(slow)).await,
            }
            match self.away.load(Ordering::SeqCst) {
                true => Err(StoreError::Unreachable("connection refused".into())),
                false => answer.await,
            }
        })
    }
}

impl Store for Fickle {
    fn name(&self) -> &'static str {
        "fickle"
    }
    fn register(&self, candidate: Candidate) -> Answer<'_, Admission> {
        self.ask(self.store.register(candidate))
    }
    fn heartbeat<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool> {
        self.ask(self.store.heartbeat(id))
    }
    fn deregister<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool> {
        self.ask(self.store.deregister(id))
    }
    fn follow<'a>(&'a self, known: Option<&'a Mark>) -> Answer<'a, Followed> {
        self.follows.fetch_add(1, Ordering::SeqCst);
        self.ask(self.store.follow(known))
    }
    fn last_seen<'a>(&'a self, members: &'a [Member]) -> Answer<'a, Vec<Option<u64>>> {
        self.ask(self.store.last_seen(members))
    }
    fn set_limits(&self, limits: Limits) {
        self.store.set_limits(limits);
    }
    fn close(&self) -> Answer<'_, ()> {
        self.store.close()
    }
}

fn directory(member_ttl: Duration) -> (Arc<Directory>, Arc<Fickle>) {
    let max_members = NonZeroUsize::new(20_000).unwrap();
    let limits = Limits { member_ttl, max_members, cleanup_interval: Duration::from_secs(60) };
    let store = Arc::new(Fickle {
        store: EmbeddedStore::in_memory(limits),
        away: false.into(),
        slow: 0.into(),
        asked: 0.into(),
        follows: 0.into(),
    });
    let directory = Directory::new(Arc::clone(&store) as Arc<dyn Store>, Arc::new(Exporter::default()));
    (Arc::new(directory), store)
}

fn id(n: usize) -> InstanceId {
    format!("m{n}").parse().unwrap()
}

fn candidate(n: usize) -> Candidate {
    Candidate {
        instance_id: id(n),
        location: "us1-k8s".parse().unwrap(),
        ip: [10, 0, 0, 1].into(),
        port: wire::DEFAULT_PORT,
    }
}

const LONG: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_reader_sees_every_change_acknowledged_before() {
    let (directory, store) = directory(LONG);
    for n in 0..50 {
        directory.register(candidate(n)).await.unwrap();
        assert_eq!(directory.view().await.unwrap().members.len(), n + 1);
    }
    directory.deregister(&id(0)).await.unwrap();
    assert_eq!(directory.view().await.unwrap().members.len(), 49);
    let follows = store.follows.load(Ordering::SeqCst);
    for _ in 0..100 {
        directory.view().await.unwrap();
        directory.heartbeat(&id(1)).await.unwrap();
    }
    assert_eq!(store.follows.load(Ordering::SeqCst), follows, "an unchanged roster costs no question");
}

#[tokio::test]
async fn readers_that_need_an_answer_share_one_question() {
    let (directory, store) = directory(LONG);
    directory.register(candidate(1)).await.unwrap();
    let readers: Vec<_> = (0..1000)
        .map(|_| {
            let directory = Arc::clone(&directory);
            tokio::spawn(async move { directory.view().await.unwrap().members.len() })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 1);
    }
    assert_eq!(store.follows.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_view_shows_a_member_past_its_lease() {
    let ttl = Duration::from_millis(300);
    let (directory, _) = directory(ttl);
    let registered = clock::monotonic();
    directory.register(candidate(1)).await.unwrap();
    assert_eq!(directory.view().await.unwrap().members.len(), 1);
    // Nothing runs that would tidy.
    sleep(ttl).await;
    assert!(clock::monotonic() - registered >= ttl);
    assert!(directory.view().await.unwrap().members.is_empty());
}

#[tokio::test]
async fn while_the_store_is_away_the_last_view_is_served_and_nobody_asks_in_vain() {
    let (directory, store) = directory(LONG);
    directory.register(candidate(1)).await.unwrap();
    let view = directory.view().await.unwrap();
    assert_eq!((directory.stale(), directory.problem()), (None, None));
    store.away.store(true, Ordering::SeqCst);
    assert!(directory.heartbeat(&id(1)).await.is_err());
    let asked = store.asked.load(Ordering::SeqCst);
    for _ in 0..100 {
        assert!(directory.heartbeat(&id(1)).await.is_err());
        assert!(directory.register(candidate(2)).await.is_err());
        assert_eq!(directory.view().await.unwrap().tag, view.tag);
        assert!(!directory.listing(&view).await.is_empty());
    }
    assert_eq!(store.asked.load(Ordering::SeqCst), asked);
    assert!(directory.stale().is_some());
    assert!(directory.problem().unwrap().contains("connection refused"));

    store.away.store(false, Ordering::SeqCst);
    let running = tokio::spawn({
        let directory = Arc::clone(&directory);
        async move { directory.run(None).await }
    });
    let deadline = clock::monotonic() + Duration::from_secs(5);
    while directory.stale().is_some() {
        assert!(clock::monotonic() < deadline);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(directory.heartbeat(&id(1)).await, Ok(true));
    running.abort();
}

#[tokio::test]
async fn a_store_never_heard_of_is_not_an_empty_ring() {
    let (directory, store) = directory(LONG);
    store.away.store(true, Ordering::SeqCst);
    assert!(directory.view().await.is_err());
    assert!(directory.view().await.is_err());
    assert_eq!(store.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_store_that_hangs_longer_than_a_tick_does_not_make_the_follower_look_stuck() {
    let (directory, store) = directory(LONG);
    store.away.store(true, Ordering::SeqCst);
    store.slow.store(1200, Ordering::SeqCst);
    let vitals = Vitals::new();
    let pulse = vitals.add("store follower", Duration::from_secs(3));
    let running = tokio::spawn({
        let directory = Arc::clone(&directory);
        async move { directory.run(Some(pulse)).await }
    });
    let enough = clock::monotonic() + Duration::from_secs(5);
    while clock::monotonic() < enough {
        assert_eq!(vitals.stalled(), None);
        sleep(Duration::from_millis(50)).await;
    }
    running.abort();
    assert!(store.follows.load(Ordering::SeqCst) >= 3);
}

#[tokio::test]
async fn ten_thousand_waiting_polls_hear_of_a_change_and_cost_no_questions() {
    let (directory, store) = directory(LONG);
    directory.register(candidate(0)).await.unwrap();
    let known = directory.view().await.unwrap().tag.clone();
    let running = tokio::spawn({
        let directory = Arc::clone(&directory);
        async move { directory.run(None).await }
    });
    let polls: Vec<_> = (0..10_000)
        .map(|_| {
            let (directory, known) = (Arc::clone(&directory), known.clone());
            tokio::spawn(async move {
                directory.wait_for(Duration::from_secs(30), |view| view.tag != known).await;
                directory.view().await.unwrap().members.len()
            })
        })
        .collect();
    tokio::task::yield_now().await;
    let (began, follows) = (clock::monotonic(), store.follows.load(Ordering::SeqCst));
    directory.register(candidate(1)).await.unwrap();
    for poll in polls {
        assert_eq!(poll.await.unwrap(), 2);
    }
    let (took, follows) = (clock::monotonic() - began, store.follows.load(Ordering::SeqCst) - follows);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(follows <= 3 + took.as_secs(), "{follows} questions in {took:?}");
    running.abort();
}

/// Counts what is logged at level warn.
struct Warnings(Arc<AtomicU64>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        self.0.fetch_add(u64::from(*event.metadata().level() == tracing::Level::WARN), Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_ring_of_loopback_and_other_addresses_is_warned_of_when_it_comes_to_be() {
    use tracing_subscriber::layer::SubscriberExt as _;

    let warnings = Arc::<AtomicU64>::default();
    let _logged =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(Warnings(Arc::clone(&warnings))));
    let (directory, _) = directory(LONG);
    let join = async |n: usize, ip: &str| {
        directory.register(Candidate { ip: ip.parse().unwrap(), ..candidate(n) }).await.unwrap();
        directory.view().await.unwrap();
        warnings.load(Ordering::SeqCst)
    };
    assert_eq!(join(1, "127.0.0.1").await, 0);
    assert_eq!(join(2, "::1").await, 0, "a ring on one host is in order");
    assert_eq!(join(3, "10.0.0.1").await, 1);
    assert_eq!(join(4, "127.0.0.1").await, 1, "what is still so is not said again");
    directory.deregister(&id(3)).await.unwrap();
    directory.view().await.unwrap();
    assert_eq!(join(5, "2001:db8::1").await, 2);
}
