//! How long what was found of a chain stands.

use std::sync::Arc;

use super::*;
use crate::vouched::VouchedChain;

fn verified(chain: &[CertificateDer<'_>], bundle: &Arc<TrustBundle>) -> VouchedChain {
    VouchedChain::verify(chain, bundle, now(), Usage::Client).unwrap()
}

#[test]
fn a_verified_chain_stands_as_long_as_each_of_its_certificates() {
    let bundle = Arc::new(OURS.bundle());
    let (own, _) = OURS.issue("workload/x", around(HOUR, HOUR));
    // One that would outlive its authority, which ends before its root does.
    let (greedy, _) = OURS.forge(|params| params.not_after = rcgen::date_time_ymd(2090, 1, 1));
    for (chain, end) in
        [(own.chain(), own.validity().not_after()), (greedy.as_slice(), OURS.issuing.validity().not_after())]
    {
        let vouched = verified(chain, &bundle);
        assert_eq!(vouched.peer().chain(), chain);
        for (at, stands) in [
            (now(), true),
            (now().minus(HOUR), true),
            (now().minus(HOUR).minus(Duration::from_millis(1)), false),
            (UnixMillis(0), false),
            (end, true),
            (end.plus(Duration::from_millis(999)), true),
            (end.plus(Duration::from_millis(1_000)), false),
            (end.plus(HOUR * 24 * 365), false),
        ] {
            assert_eq!(vouched.stands(&bundle, at, Usage::Client), stands, "{at}");
            let anew = verify_svid(chain, &bundle, at, Usage::Client);
            assert_eq!(anew.is_ok(), stands, "{at}: {anew:?}");
        }
    }
}

#[test]
fn a_verified_chain_stands_by_the_very_bundle_that_vouched_and_in_that_role() {
    let (svid, _) = OURS.issue("workload/x", around(HOUR, HOUR));
    let bundle = Arc::new(OURS.bundle());
    let vouched = verified(svid.chain(), &bundle);
    let stands = |bundle: &Arc<TrustBundle>, usage| vouched.stands(bundle, now(), usage);
    assert!(stands(&Arc::clone(&bundle), Usage::Client));
    assert!(!stands(&bundle, Usage::Server));
    let tainted = OURS.bundle().distrusting([OURS.issuing.key().public_key().fingerprint()]);
    for other in [OURS.bundle(), tainted, TrustBundle::empty(bundle.trust_domain().clone())] {
        assert!(!stands(&Arc::new(other), Usage::Client));
    }
}
