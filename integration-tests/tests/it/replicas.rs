//! Several instances of a node: they share the load, come, and go without a failed call.

use std::time::Duration;

use hauberk_integration_tests::{Agent, App, MeshBox, eventually, get};

use crate::{
    load::Load,
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
};

fn replica(mesh: &MeshBox, app: &App) -> Agent {
    shop::orders(mesh, app.address())
}

#[test]
fn replicas_share_the_load_and_a_new_one_gets_some() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let (first, second, third) = (App::start("first"), App::start("second"), App::start("third"));
    let (_first, _second) = (replica(&mesh, &first), replica(&mesh, &second));
    let web = shop::caller(&mesh, "web");
    eventually("both are called", PATIENCE, || {
        get(web.outbound(), "orders", "/").ok()?;
        (first.requests() > 0 && second.requests() > 0).then_some(())
    });
    let before = (first.requests(), second.requests());
    for _ in 0..200 {
        assert_eq!(get(web.outbound(), "orders", "/").unwrap().status, 200);
    }
    let shares = (first.requests() - before.0, second.requests() - before.1);
    assert_eq!(shares.0 + shares.1, 200);
    assert!(shares.0 >= 40 && shares.1 >= 40, "{shares:?}");

    let _third = replica(&mesh, &third);
    eventually("the new one is called", PATIENCE, || {
        assert_eq!(get(web.outbound(), "orders", "/").unwrap().status, 200);
        (third.requests() > 0).then_some(())
    });
}

#[test]
fn a_drained_replica_loses_no_call() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let (staying, going) = (App::start("staying"), App::start("going"));
    let (_staying, mut leaves) = (replica(&mesh, &staying), replica(&mesh, &going));
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);
    let load = Load::start(web.outbound(), "orders");
    eventually("both are called", PATIENCE, || {
        (staying.requests() > 0 && going.requests() > 0).then_some(())
    });

    let status = leaves.process.stop(Duration::from_secs(30));
    assert!(status.success(), "{status}: {}", leaves.process.log());
    let seen = going.requests();
    load.wait_for(100);
    load.finish();
    assert_eq!(going.requests(), seen, "nothing reaches the app of an instance that has left");
}

#[test]
fn a_killed_replica_is_passed_over() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let (staying, dying) = (App::start("staying"), App::start("dying"));
    let (_staying, mut dies) = (replica(&mesh, &staying), replica(&mesh, &dying));
    let web = shop::caller(&mesh, "web");
    eventually("both are called", PATIENCE, || {
        get(web.outbound(), "orders", "/").ok()?;
        (staying.requests() > 0 && dying.requests() > 0).then_some(())
    });
    dies.process.kill();
    // A call that was under way may be lost, and one over a connection that has just broken; none after that.
    eventually("the dead one is passed over", PATIENCE, || {
        let answers: Vec<u16> = (0..20)
            .map(|_| get(web.outbound(), "orders", "/").map_or(0, |response| response.status))
            .collect();
        answers.iter().all(|&status| status == 200).then_some(())
    });
}
