use std::time::Duration;

use hauberk_identity::Validity;
use hauberk_tls::KeyPair;

use super::*;
use crate::testing::{Authorities, HOUR, around, now};

impl Vouched {
    fn held(&self) -> (usize, usize) {
        let known = self.0.lock().unwrap();
        (known.chains.len(), known.chains.bytes())
    }
}

fn trusted(authorities: &Authorities) -> Arc<TrustBundle> {
    Arc::new(authorities.issuing.root_bundle().clone())
}

fn chain(authorities: &Authorities, validity: Validity) -> Vec<CertificateDer<'static>> {
    let key = KeyPair::generate().unwrap();
    authorities.sign("mesh/shop/node/web", key.public_key(), validity).chain().to_vec()
}

#[test]
fn what_is_known_is_known_by_the_very_bytes_and_no_others() {
    let (ours, theirs) = (Authorities::new(), Authorities::new());
    let (vouched, bundle) = (Vouched::default(), trusted(&ours));
    let verify = |chain: &[CertificateDer<'_>]| vouched.verify(chain, &bundle, now());
    let own = chain(&ours, around(HOUR));
    let known = verify(&own).unwrap();
    assert!(Arc::ptr_eq(&known, &verify(&own).unwrap()), "verified once");
    let [leaf, issuing] = own.as_slice() else { panic!() };
    let other = theirs.issuing.certificate().clone();
    // The leaf that is known, under other authorities, under none, or with something in between.
    assert_eq!(verify(&[leaf.clone(), other.clone()]).unwrap_err(), VerifyError::UnknownIssuer);
    assert_eq!(verify(std::slice::from_ref(leaf)).unwrap_err(), VerifyError::UnknownIssuer);
    assert!(verify(&[issuing.clone(), leaf.clone()]).is_err());
    assert!(verify(&[[leaf.as_ref(), issuing.as_ref()].concat().into()]).is_err());
    assert!(verify(&[]).is_err());
    for at in 0..leaf.len() {
        let mut changed = leaf.to_vec();
        changed[at] ^= 1;
        assert!(verify(&[changed.into(), issuing.clone()]).is_err(), "{at}");
    }
    assert_eq!(vouched.held().0, 1, "what is no good is not remembered");
    // Two that share a leaf, and are both good, are two.
    let longer = verify(&[leaf.clone(), issuing.clone(), other]).unwrap();
    assert!(!Arc::ptr_eq(&longer, &known));
    assert_eq!((longer.peer().chain().len(), known.peer().chain().len(), vouched.held().0), (3, 2, 2));
}

#[test]
fn other_trust_ends_all_that_is_known() {
    let authorities = Authorities::new();
    let (vouched, bundle) = (Vouched::default(), trusted(&authorities));
    let (one, other) = (chain(&authorities, around(HOUR)), chain(&authorities, around(HOUR)));
    let known = vouched.verify(&one, &bundle, now()).unwrap();
    vouched.verify(&other, &bundle, now()).unwrap();
    assert_eq!(vouched.held().0, 2);
    let key = authorities.issuing.key().public_key().fingerprint();
    let tainted = Arc::new(TrustBundle::clone(&bundle).distrusting([key]));
    assert_eq!(vouched.verify(&one, &tainted, now()).unwrap_err(), VerifyError::Distrusted(key));
    assert_eq!(vouched.held(), (0, 0));
    let nobody = Arc::new(TrustBundle::empty(bundle.trust_domain().clone()));
    assert_eq!(vouched.verify(&one, &nobody, now()).unwrap_err(), VerifyError::UnknownIssuer);
    // Whoever still goes by the bundle before finds what that says, and leaves nothing for others to find.
    assert!(vouched.verify(&one, &bundle, now()).is_ok());
    assert!(vouched.verify(&one, &tainted, now()).is_err());
    // The same once more is another moment's trust.
    let anew = vouched.verify(&one, &trusted(&authorities), now()).unwrap();
    assert!(!Arc::ptr_eq(&anew, &known));
    assert_eq!(vouched.held().0, 1);
}

#[test]
fn time_is_looked_at_on_each_use() {
    let authorities = Authorities::new();
    let (vouched, bundle) = (Vouched::default(), trusted(&authorities));
    let end = now().floor_to_second().plus(Duration::from_secs(30));
    let chain = chain(&authorities, Validity::new(now().minus(HOUR), end).unwrap());
    let known = vouched.verify(&chain, &bundle, now()).unwrap();
    let see = |at| vouched.verify(&chain, &bundle, at);
    assert!(Arc::ptr_eq(&see(end).unwrap(), &known));
    assert!(matches!(see(end.plus(Duration::from_secs(1))), Err(VerifyError::Expired { .. })));
    let before = known.peer().not_before().minus(Duration::from_millis(1));
    assert!(matches!(see(before), Err(VerifyError::NotYetValid { .. })));
    assert!(Arc::ptr_eq(&see(now()).unwrap(), &known), "a clock that was wrong does not spoil it");
}

#[test]
fn a_hundred_thousand_chains_take_no_more_room_than_some_thousand() {
    let authorities = Authorities::new();
    let (vouched, bundle) = (Vouched::default(), trusted(&authorities));
    let own = chain(&authorities, around(HOUR));
    let verified = vouched.verify(&own, &bundle, now()).unwrap();
    // One as long as there is room for in a header, now and then.
    for number in 0..100_000_u32 {
        let mut hash = Hash::default();
        hash[..4].copy_from_slice(&number.to_be_bytes());
        let bytes = if number % 2 == 0 { 1_500 } else { 7_500 };
        vouched.of(&bundle, |chains| chains.insert(hash, Arc::clone(&verified), bytes));
        assert!(vouched.of(&bundle, |chains| chains.get(&hash)).is_some());
        let (count, bytes) = if number % 1_000 == 0 { vouched.held() } else { (0, 0) };
        assert!(count <= 4_096 && bytes <= 8 * 1024 * 1024, "{count} {bytes}");
    }
    let (count, bytes) = vouched.held();
    assert!((1..=4_096).contains(&count) && bytes <= 8 * 1024 * 1024, "{count} {bytes}");
}
