use hauberk_identity::Validity;
use hauberk_tls::{ClientAuth, PeerIdentity, Usage, verify_svid};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::clock::Clock;
use crate::connections::{Registered, Role};
use crate::context::Context;
use crate::decisions::Decisions;
use crate::mesh::Mesh;
use crate::testing::{Authorities, HOUR, around, now};

/// More than there are places for proofs.
const DEAD: usize = MAX_PROMPT + MAX_PATIENT + 1;

struct Mine {
    authorities: Arc<Authorities>,
    connections: Arc<Connections>,
    opened: Vec<Registered>,
}

impl Mine {
    fn new() -> Self {
        hauberk_tls::install_provider();
        let authorities = Authorities::new();
        let clock = Clock::system();
        let instance = "0123456789".parse().unwrap();
        let connections = Connections::new(Context {
            clock,
            identity: authorities.live("mesh/shop/node/web"),
            trust: watch::Sender::new(Arc::new(authorities.stored_trust())).subscribe(),
            mesh: Mesh::new(),
            decisions: Arc::new(Decisions::new(clock, instance, [1, 2, 3, 4], None)),
            metrics: Arc::default(),
        });
        Self { authorities, connections, opened: Vec::new() }
    }

    /// A connection to this node's agent, on which we have shown no certificate that we hold now.
    fn open(&mut self, path: &str, address: SocketAddr) -> Arc<Connection> {
        self.open_with(self.peer(path, around(HOUR)), address)
    }

    fn open_with(&mut self, peer: PeerIdentity, address: SocketAddr) -> Arc<Connection> {
        let exporter = [u8::try_from(self.opened.len()).unwrap(); 32];
        let opened = self.connections.register(Role::Outbound, peer, address, None, exporter).unwrap();
        let connection = Arc::clone(opened.connection());
        self.opened.push(opened);
        connection
    }

    fn peer(&self, path: &str, validity: Validity) -> PeerIdentity {
        let svid = self.authorities.identity(path, validity).svid;
        verify_svid(svid.chain(), self.authorities.issuing.root_bundle(), now(), Usage::Server).unwrap()
    }

    fn renew(&self) {
        let identity = self.authorities.identity("mesh/shop/node/web", around(HOUR));
        self.connections.context().identity.publish(identity.svid, &identity.key).unwrap();
    }

    /// Waits until our certificate is proved on all of these.
    async fn until_proved(&self, connections: &[Arc<Connection>]) {
        let own = shown_by(&self.connections.context().identity.current());
        let proved = async {
            while connections.iter().any(|connection| connection.shown() != own) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, proved).await.expect("all of them, in time");
    }
}

/// An agent that takes every proof but the first so many, on which it says nothing.
async fn living(
    authorities: &Authorities,
    path: &str,
    unanswered: usize,
    tasks: &mut JoinSet<()>,
) -> SocketAddr {
    let identity = authorities.live(path);
    let acceptor = identity.acceptor(&[alpn::PROVE], ClientAuth::Required, PATIENCE).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut held = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if held.len() < unanswered {
                held.push(stream);
                continue;
            }
            let (mut stream, _) = acceptor.accept(stream).await.unwrap().into_parts();
            let count = usize::from(stream.read_u16().await.unwrap());
            stream.read_exact(&mut vec![0; 32 * count]).await.unwrap();
            stream.write_all(&vec![1; count]).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    address
}

/// Takes connections and says nothing on them. Gives how many there have been.
async fn dead(tasks: &mut JoinSet<()>) -> (SocketAddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (count, counted) = watch::channel(0);
    tasks.spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
            count.send_replace(held.len());
        }
    });
    (address, counted)
}

#[tokio::test]
async fn the_dead_do_not_keep_the_living_waiting() {
    let mut mine = Mine::new();
    let mut tasks = JoinSet::new();
    let (silent, mut asked) = dead(&mut tasks).await;
    for number in 0..DEAD {
        mine.open(&format!("mesh/shop/node/dead-{number}"), silent);
    }
    let mut alive = Vec::new();
    for number in 0..4 {
        let path = format!("mesh/shop/node/living-{number}");
        let address = living(&mine.authorities, &path, 0, &mut tasks).await;
        alive.push(mine.open(&path, address));
    }
    let proving = async {
        // First nothing is known of anybody; then all places for the dead are taken.
        for attempts in [0, DEAD + MAX_PATIENT] {
            asked.wait_for(|count| *count >= attempts).await.unwrap();
            mine.renew();
            let proved = timeout(3 * PROMPT, mine.until_proved(&alive)).await;
            assert!(proved.is_ok(), "the living wait for the dead, of whom {attempts} were asked");
        }
    };
    tokio::select! {
        biased;
        () = keep_proved(&mine.connections) => {}
        () = proving => {}
    }
}

#[test]
fn a_successor_is_asked_for_when_there_should_be_one() {
    let mut mine = Mine::new();
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let mut is_asked = |life: u64, left: u64| {
        let (life, left) = (Duration::from_secs(life), Duration::from_secs(left));
        let issued = now().plus(left).minus(life);
        let validity = Validity::new(issued.minus(TOLERATED), now().plus(left)).unwrap();
        let peer = mine.peer("mesh/shop/node/far", validity);
        let connection = mine.open_with(peer, nobody);
        connection.set_shown(shown_by(&mine.connections.context().identity.current()));
        let mut asked = stale(&mine.connections).into_values().flatten();
        asked.any(|stale| stale.id() == connection.id())
    };
    // It is there when four tenths of a life are left, and each proof is a handshake.
    for (life, fresh, old) in [(60, 25, 18), (300, 105, 95), (900, 310, 290), (3_600, 310, 290)] {
        assert!(!is_asked(life, life - 1) && !is_asked(life, fresh), "{life}");
        assert!(is_asked(life, old), "{life}");
    }
}

#[tokio::test]
async fn the_slow_do_not_wait_for_those_that_have_failed() {
    let mut mine = Mine::new();
    let mut tasks = JoinSet::new();
    let places = Places::new();
    let (silent, mut asked) = dead(&mut tasks).await;
    let mut failed = Vec::new();
    for number in 0..=MAX_FAILED {
        let connection = mine.open(&format!("mesh/shop/node/dead-{number}"), silent);
        let peer = (silent, connection.peer().id().clone());
        failed.push((peer, vec![connection]));
    }
    let path = "mesh/shop/node/slow";
    let address = living(&mine.authorities, path, 1, &mut tasks).await;
    let slow = mine.open(path, address);
    mine.renew();
    let proving = async {
        asked.wait_for(|count| *count == MAX_FAILED).await.unwrap();
        let peer = (address, slow.peer().id().clone());
        let proof = places.prove_all(&mine.connections, peer, vec![Arc::clone(&slow)], false);
        let (_, has_failed) =
            timeout(3 * PROMPT, proof).await.expect("the slow wait for those that have failed");
        assert!(!has_failed);
        mine.until_proved(&[slow]).await;
    };
    let attempts: FuturesUnordered<_> = failed
        .into_iter()
        .map(|(peer, stale)| places.prove_all(&mine.connections, peer, stale, true))
        .collect();
    tokio::select! {
        biased;
        () = proving => {}
        _ = attempts.collect::<Vec<_>>() => panic!("those that have failed are given up before the slow are proved"),
    }
}
