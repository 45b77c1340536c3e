//! Who is told that its virtual node is gone, and who is not.

use super::*;

/// How long nothing is said, but for the word that there are no workloads.
const QUIET: Duration = Duration::from_secs(50);

#[tokio::test(start_paused = true)]
async fn a_node_without_a_view_is_not_gone() {
    let world = World::new().await;
    world.publish(1, &[("orders", 1)], &[("payments", 1)], &["payments"]);
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    agent.register("10.0.0.1:80", false).await;
    // As after a restart with a resource of the mesh that cannot be read.
    world.amend(|compilation| {
        compilation.revision = 2;
        compilation.nodes.clear();
        compilation.services.clear();
    });
    assert_eq!(world.lag(2).await, Some(Lag::NotCompiled));
    world.until(|world| world.endpoints() == ["10.0.0.1:80 confirmed"]).await;
    assert!(timeout(Duration::from_secs(60), agent.down.recv()).await.is_err(), "it is told nothing");
    assert_eq!(world.endpoints(), ["10.0.0.1:80 confirmed"]);
    let mut unread = world.connect("orders", 2);
    unread.hello().await;
    assert_eq!(unread.next().await, "trust");
    assert!(timeout(QUIET, unread.next()).await.is_err());
    world.publish(3, &[("orders", 1)], &[("payments", 3)], &["payments"]);
    assert_eq!(agent.until_current(3).await, ["payments 3"]);
}

#[tokio::test(start_paused = true)]
async fn a_view_of_a_former_node_dismisses_nobody_and_is_not_pushed() {
    let world = World::new().await;
    // Made anew, and its new view could not be made: the former one is kept.
    world.amend(|compilation| {
        compilation.node_uids.insert(node_id("orders"), Some("second".to_owned()));
    });
    for (number, uid) in [(1, Some("second".to_owned())), (2, None)] {
        let mut agent = world.connect_of("orders", number, uid);
        agent.hello().await;
        assert_eq!(agent.next().await, "trust");
        assert!(timeout(QUIET, agent.next()).await.is_err());
    }
    // Which node there is cannot be told: whoever joined the former one has its view, and the others wait.
    world.amend(|compilation| {
        compilation.node_uids.insert(node_id("orders"), None);
    });
    let mut agent = world.connect("orders", 3);
    agent.hello().await;
    assert_eq!(agent.until_current(1).await, ["trust", "node 1"]);
    let mut other = world.connect_of("orders", 4, Some("second".to_owned()));
    other.hello().await;
    assert_eq!(other.next().await, "trust");
    assert!(timeout(QUIET, other.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_instance_without_a_record_is_not_dismissed() {
    let world = World::new().await;
    let mut known = world.connect_of("orders", 1, None);
    known.hello().await;
    assert_eq!(known.until_current(1).await, ["trust", "node 1"], "it belongs to whatever node has the name");
    world.publish(2, &[("web", 2)], &[], &[]);
    let ended = known.received().await.unwrap_err();
    assert!(ended.message().contains("unknown here"), "{ended}");
    assert_eq!(world.lag(2).await, Some(Lag::NodeUnknown));
    for uid in [None, Some(String::new())] {
        let mut stranger = world.connect_of("orders", 2, uid);
        stranger.hello().await;
        let ended = stranger.received().await.unwrap_err();
        assert_eq!(ended.code(), Code::NotFound);
        assert!(ended.message().contains("unknown here"), "{ended}");
    }
}

#[tokio::test(start_paused = true)]
async fn whose_view_cannot_be_made_alone_is_late_for_what_is_in_every_view() {
    use crate::compile::{CompileFinding, Unmade};
    let world = World::new().await;
    world.publish(5, &[("orders", 5), ("web", 5)], &[], &[]);
    for node in ["orders", "web"] {
        let mut agent = world.connect(node, u8::try_from(node.len()).unwrap());
        agent.hello().await;
        agent.until_current(5).await;
        agent.acknowledge(5, "").await;
        world.settle().await;
    }
    let mesh = Name::parse("shop").unwrap();
    let late = |since: u64| {
        let compilation = world.compilation.borrow().clone();
        let late = world.push.instances.without_views_of(&compilation, since, &mesh, world.clock.now());
        late.into_iter().map(|late| (late.spiffe_id, late.lag)).collect::<Vec<_>>()
    };
    assert_eq!(late(5), []);
    let unmade = |unmade| {
        world.amend(|compilation| {
            compilation.revision = 6;
            compilation.findings = Arc::new([CompileFinding {
                mesh: mesh.clone(),
                unmade,
                summary: "the view of virtual node shop/orders cannot be made: why".to_owned(),
                fix: "delete it".to_owned(),
            }]);
        });
    };
    unmade(Unmade::OfNode(node_id("orders")));
    let why = "its view cannot be compiled: the view of virtual node shop/orders cannot be made: why";
    let [(id, lag)] = &late(6)[..] else { panic!("{:?}", late(6)) };
    assert_eq!(
        (id, lag.to_string().as_str()),
        (&node_id("orders"), why),
        "what stands instead has the former keys"
    );
    assert_eq!(late(5), [], "what it holds had them already");
    // Of the whole configuration nobody is said to enforce it, and whose view it is, is told why.
    let lags: Vec<_> = world.rollout(6).laggards.into_iter().map(|late| late.lag.to_string()).collect();
    assert_eq!(lags, [why, "its view is not compiled"]);
    unmade(Unmade::OfService(Name::parse("orders").unwrap()));
    assert_eq!(late(6), []);
    unmade(Unmade::All);
    assert_eq!(late(6).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_has_no_view_is_told_all_the_same_who_serves_what_it_calls() {
    let world = World::new().await;
    world.publish(1, &[("orders", 1), ("payments", 1)], &[("payments", 1)], &[]);
    world.enroll(1, "orders", &["worker"]);
    let server = world.connect("payments", 9);
    server.hello().await;
    server.register("10.0.0.1:80", false).await;
    world.until(|world| world.endpoints() == ["10.0.0.1:80 confirmed"]).await;
    // As after a restart with a policy that cannot be read.
    world.amend(|compilation| {
        compilation.revision = 2;
        compilation.nodes.clear();
    });
    let held =
        Some(agent::Held { epoch: EPOCH, revision: 1, digest: digest(1).to_vec(), ..agent::Held::default() });
    let services = ["payments", "gone"]
        .map(|name| agent::HeldService { name: name.into(), held: held.clone() })
        .to_vec();
    let mut agent = world.connect("orders", 1);
    agent.say(agent::Hello { held, services, ..hello() }).await;
    let told = [agent.next().await, agent.next().await, agent.next().await];
    assert_eq!(told, ["trust", "workloads worker", "endpoints 10.0.0.1:80 confirmed"]);
    server.register("10.0.0.2:80", false).await;
    assert_eq!(agent.next().await, "endpoints 10.0.0.2:80 confirmed");
    world.enroll(3, "orders", &["other"]);
    assert_eq!(agent.next().await, "workloads other");
    // It asks for another one, too; and nothing is gone, nor current.
    let add = vec!["orders".to_owned()];
    agent.send(from_agent::Message::Subscribe(agent::Subscribe { add, remove: Vec::new() })).await;
    assert!(timeout(QUIET, agent.next()).await.is_err());
    assert_eq!(world.rollout(3).laggards.len(), 2);
    world.publish(4, &[("orders", 4), ("payments", 1)], &[("payments", 1)], &[]);
    assert_eq!(agent.until_current(4).await, ["node 4", "gone gone orders"]);
}
