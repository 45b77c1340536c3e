//! What was acknowledged stays, whatever happens to the processes.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hauberk_integration_tests::{AgentOptions, App, MeshBox, dial, eventually, get};
use hauberk_proto::{
    admin::v1::{ApplyRequest, ListRequest, resources_client::ResourcesClient},
    mesh::v1::{Resource, VirtualNodeSpec, resource::Spec},
};
use hauberk_tls::KeyPair;
use tokio::{runtime::Runtime, task::JoinSet};

use crate::shop::{PATIENCE, SMALL_SHOP};

const WRITERS: usize = 4;

fn rounds() -> u64 {
    if std::env::var_os("HAUBERK_TEST_LONG").is_some_and(|value| value == "1") { 100 } else { 10 }
}

fn counter(writer: usize, count: u64) -> Resource {
    Resource {
        mesh: "shop".to_owned(),
        name: format!("writer-{writer}"),
        labels: HashMap::from([("count".to_owned(), count.to_string())]),
        spec: Some(Spec::VirtualNode(VirtualNodeSpec::default())),
        ..Resource::default()
    }
}

/// What one writer tried, and what it was told is done.
#[derive(Debug, Default)]
struct Progress {
    attempted: AtomicU64,
    acknowledged: AtomicU64,
}

/// Counts upwards in its own resource until the control plane is gone.
async fn write_until_it_dies(
    mut client: ResourcesClient<tonic::transport::Channel>,
    writer: usize,
    progress: Arc<Progress>,
) {
    loop {
        let count = progress.attempted.load(Ordering::SeqCst) + 1;
        progress.attempted.store(count, Ordering::SeqCst);
        let request = ApplyRequest { resources: vec![counter(writer, count)], validate_only: false };
        match client.apply(request).await {
            Ok(_) => progress.acknowledged.store(count, Ordering::SeqCst),
            Err(_) => return,
        }
    }
}

/// The counts that are stored.
async fn stored(mesh: &MeshBox) -> Vec<u64> {
    let mut client = ResourcesClient::new(dial::channel(mesh.admin_address(), dial::admin(mesh)));
    let listed = client.list(ListRequest::default()).await.unwrap().into_inner().resources;
    let count = |writer: usize| {
        let name = format!("writer-{writer}");
        let found = listed.iter().find(|resource| resource.name == name);
        found.map_or(0, |resource| resource.labels["count"].parse().unwrap())
    };
    (0..WRITERS).map(count).collect()
}

#[test]
fn nothing_acknowledged_is_lost_when_the_control_plane_is_killed() {
    let mut mesh = MeshBox::start();
    mesh.apply("kind: Mesh\nname: shop\n---\nkind: VirtualNode\nmesh: shop\nname: orders\nspec: {}\n");
    let progress: Vec<Arc<Progress>> = (0..WRITERS).map(|_| Arc::default()).collect();
    let acknowledged = |progress: &[Arc<Progress>]| {
        progress.iter().map(|one| one.acknowledged.load(Ordering::SeqCst)).sum::<u64>()
    };
    for round in 0..rounds() {
        let runtime = Runtime::new().unwrap();
        let goal = acknowledged(&progress) + 1 + round * 7 % 40;
        let token = dial::token(&mesh, "orders", &[]);
        let key = KeyPair::generate().unwrap();
        let joined = runtime.block_on(dial::attest(&mesh, &token, &key)).unwrap();
        let serial =
            hauberk_tls::Svid::from_der(joined.certificate.unwrap().chain).unwrap().serial().to_string();

        let mut writers = JoinSet::new();
        for (writer, progress) in progress.iter().enumerate() {
            let client = runtime.block_on(async { dial::channel(mesh.admin_address(), dial::admin(&mesh)) });
            let writing = write_until_it_dies(ResourcesClient::new(client), writer, Arc::clone(progress));
            writers.spawn_on(writing, runtime.handle());
        }
        eventually("enough is acknowledged", Duration::from_secs(30), || {
            (acknowledged(&progress) >= goal).then_some(())
        });
        mesh.kill_control_plane();
        while runtime.block_on(writers.join_next()).is_some() {}
        if round % 3 == 2 {
            mesh.kill_while_starting(Duration::from_millis(round * 13 % 100));
        }
        mesh.restart_control_plane();

        for (writer, count) in runtime.block_on(stored(&mesh)).into_iter().enumerate() {
            let one = &progress[writer];
            let range = one.acknowledged.load(Ordering::SeqCst)..=one.attempted.load(Ordering::SeqCst);
            assert!(
                range.contains(&count),
                "round {round}, writer {writer}: {count} is stored, not {range:?}"
            );
            one.attempted.store(count, Ordering::SeqCst);
            one.acknowledged.store(count, Ordering::SeqCst);
        }
        let certificates = mesh.hauberk(&["get", "certificates", "-o", "json"]).ok().stdout;
        assert!(certificates.contains(&serial), "round {round}: certificate {serial} is forgotten");
        let other = KeyPair::generate().unwrap();
        let again = runtime.block_on(dial::attest(&mesh, &token, &other));
        assert!(again.is_err(), "round {round}: the token's use is forgotten");
    }
}

#[test]
fn killed_agents_come_back_from_their_state() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let app = App::start("orders");
    let mut orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let mut web = mesh.agent("web", AgentOptions::default());
    mesh.wait_enforced();
    for file in fs::read_dir(mesh.folder()).unwrap().map(|entry| entry.unwrap().path()) {
        if file.file_name().unwrap().to_str().unwrap().starts_with("token-") {
            fs::remove_file(file).unwrap();
        }
    }
    let instances = || mesh.hauberk(&["get", "instances", "-o", "name"]).ok().stdout;
    let before = instances();
    let call = |outbound| get(outbound, "orders", "/orders/1").is_ok_and(|answer| answer.status == 200);
    eventually("the first call", PATIENCE, || call(web.outbound()).then_some(()));

    for round in 0..5 {
        let stop = AtomicBool::new(false);
        let outbound = web.outbound();
        std::thread::scope(|scope| {
            let load = || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = get(outbound, "orders", "/orders/1");
                }
            };
            scope.spawn(load);
            scope.spawn(load);
            let seen = app.requests();
            eventually("traffic flows", PATIENCE, || (app.requests() > seen + 5).then_some(()));
            if round % 2 == 0 {
                orders.restart(mesh.folder());
            } else {
                web.process.kill();
            }
            stop.store(true, Ordering::Relaxed);
        });
        if round % 2 == 1 {
            web.restart(mesh.folder());
        }
        eventually("calls go through again", PATIENCE, || call(web.outbound()).then_some(()));
    }
    assert_eq!(instances(), before, "the same instances, and no token was needed");
}

#[test]
fn a_graceful_stop_is_one() {
    let mut mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let agent = mesh.agent("web", AgentOptions::default());
    let status = mesh.control_plane().stop(Duration::from_secs(25));
    assert_eq!(status.code(), Some(0), "{}", mesh.control_plane().log());
    assert_eq!(get(agent.health(), "health", "/livez").unwrap().status, 200);
    mesh.restart_control_plane();
    mesh.hauberk(&["get", "vn", "web"]).ok();
}
