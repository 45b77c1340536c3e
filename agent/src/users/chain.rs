//! By which way a user came: one hop for each agent that passed the user on, each signed by its SVID over all that came
//! before.
//!
//! Between agents it stands behind the user's own token, after a tilde. Whoever verifies it trusts nobody on the way:
//! the token by its issuer's keys, each hop by the certificate of who made it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hauberk_identity::{IdentityKind, SpiffeId, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::{
    CertificateDer, Hop, Link, LiveState, PeerIdentity, Usage, VerifyError, VouchedChain, unverified_id,
};
use prost::Message as _;

use super::vouched::Vouched;
use crate::mesh::Denied;

/// The longest header value, in bytes. The handle that seals it is a third longer, and must fit into a request's head.
pub(super) const MAX_LEN: usize = 10 * 1024;
/// The most hops, and the most certificates of authorities that they share.
const MAX_HOPS: usize = 8;
const MAX_AUTHORITIES: usize = 16;
/// How far the clocks of two hosts may be apart.
const LEEWAY: Duration = Duration::from_secs(60);

/// What a header value says; nothing of it is verified.
pub(super) struct Parts<'a> {
    pub(super) user: &'a str,
    chain: pb::IdentityChain,
}

/// Who passed a user on, the first one first; all of it was verified.
#[derive(Debug)]
pub(super) struct Passed {
    /// As they were last verified.
    hops: ArcSwap<Vec<Arc<VouchedChain>>>,
    /// Whom the last one passed the user to.
    to: SpiffeId,
}

/// Between whom something is passed, and what is trusted there.
#[derive(Clone, Copy)]
pub(super) struct Between<'a> {
    pub(super) own: &'a SpiffeId,
    pub(super) peer: &'a SpiffeId,
    pub(super) trusted: &'a LiveState,
    pub(super) denied: &'a Denied,
}

/// How far a request has come that was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is about to be let in.
    Arriving,
    /// It was let in, on a connection whose peer proves anew who it is, or is cut: once the certificate of the last hop
    /// has ended, that proof stands for it.
    UnderWay,
}

const MALFORMED: &str = "identity_malformed";
const TOO_LARGE: &str = "identity_too_large";
const TOO_LONG: &str = "identity_too_many_hops";
pub(super) const EXPIRED: &str = "identity_expired";
const AUDIENCE: &str = "identity_audience";
const SIGNER: &str = "identity_signer";
const REVOKED: &str = "identity_revoked";

impl<'a> Parts<'a> {
    /// Takes a header value apart.
    pub(super) fn parse(text: &'a str) -> Result<Self, &'static str> {
        if text.len() > MAX_LEN {
            return Err(TOO_LARGE);
        }
        let (user, chain) = text.split_once('~').ok_or(MALFORMED)?;
        let encoded = URL_SAFE_NO_PAD.decode(chain).map_err(|_| MALFORMED)?;
        let chain = pb::IdentityChain::decode(&*encoded).map_err(|_| MALFORMED)?;
        // One text for one chain: what is verified is kept by its text, and nobody shall have room for more than one.
        if chain.encode_to_vec() != encoded {
            return Err(MALFORMED);
        }
        let pb::IdentityChain { authorities, hops } = &chain;
        if hops.len() > MAX_HOPS {
            return Err(TOO_LONG);
        }
        // Those of one hop are named by their places, and one place many times costs hardly a byte.
        let is_long = |hop: &pb::IdentityHop| hop.authorities.len() > MAX_AUTHORITIES;
        let is_bounded = authorities.len() <= MAX_AUTHORITIES && !hops.iter().any(is_long);
        if is_bounded { Ok(Self { user, chain }) } else { Err(MALFORMED) }
    }

    /// Whether the last hop says that it is by the peer, and for us. Nothing of it is verified.
    pub(super) fn check_between(&self, between: Between<'_>) -> Result<(), &'static str> {
        let last = self.chain.hops.last().ok_or(MALFORMED)?;
        if last.audience != between.own.as_str() {
            return Err(AUDIENCE);
        }
        let certificate = CertificateDer::from(last.certificate.as_slice());
        let signer = unverified_id(&certificate).map_err(of_certificate)?;
        if signer == *between.peer { Ok(()) } else { Err(SIGNER) }
    }

    /// Who says to have passed the user on last, if anybody does. Nothing of it is verified.
    pub(super) fn last_signer(&self) -> Result<Option<SpiffeId>, &'static str> {
        let signer = |hop: &pb::IdentityHop| {
            unverified_id(&CertificateDer::from(hop.certificate.as_slice())).map_err(of_certificate)
        };
        self.chain.hops.last().map(signer).transpose()
    }

    /// Verifies every hop: that it was signed by who it says, over all before it, for the next one; the last one by the
    /// peer, for us.
    pub(super) fn verify(
        &self,
        between: Between<'_>,
        vouched: &Vouched,
        now: UnixMillis,
    ) -> Result<Passed, &'static str> {
        let Between { own, trusted, denied, .. } = between;
        let pb::IdentityChain { authorities, hops } = &self.chain;
        let mut link = Link::of_user(self.user);
        let mut passed = Vec::with_capacity(hops.len());
        let mut latest = UnixMillis(0);
        for (index, hop) in hops.iter().enumerate() {
            let pb::IdentityHop { certificate, authorities: above, audience, at_unix_ms, signature } = hop;
            let at = UnixMillis(*at_unix_ms);
            let above = above.iter().map(|place| authorities.get(usize::try_from(*place).ok()?));
            let above: Option<Vec<_>> = above.collect();
            let chain = [certificate].into_iter().chain(above.ok_or(MALFORMED)?);
            let chain: Vec<_> = chain.map(|der| CertificateDer::from(der.as_slice())).collect();
            let by = vouched.verify(&chain, trusted.bundle(), now).map_err(of_certificate)?;
            let signer = by.peer();
            let is_ours =
                matches!(signer.id().kind(), IdentityKind::Node { .. } | IdentityKind::Gateway { .. });
            let is_meant = match index.checked_sub(1).and_then(|before| hops.get(before)) {
                Some(before) => before.audience == signer.id().as_str(),
                None => true,
            };
            if !is_ours {
                return Err(SIGNER);
            }
            if !is_meant {
                return Err("identity_spliced");
            }
            // At each use: no bundle says it, and it is not remembered.
            if is_denied(denied, signer) {
                return Err(REVOKED);
            }
            if at > now.plus(LEEWAY) || at.plus(LEEWAY) < latest || at < signer.not_before() {
                return Err("identity_time");
            }
            latest = latest.max(at);
            let certificate = chain.first().ok_or(MALFORMED)?;
            link = link
                .verify(&Hop { certificate, audience, at }, signature)
                .map_err(|_| "identity_signature")?;
            passed.push(by);
        }
        let passed = Passed { hops: ArcSwap::from_pointee(passed), to: own.clone() };
        passed.check_between(between).map(|()| passed)
    }
}

impl Passed {
    /// Whether the peer passed the user on last, and to us.
    pub(super) fn check_between(&self, between: Between<'_>) -> Result<(), &'static str> {
        if self.to != *between.own {
            return Err(AUDIENCE);
        }
        let hops = self.hops.load();
        let is_by_peer = hops.last().is_some_and(|last| last.peer().id() == between.peer);
        if is_by_peer { Ok(()) } else { Err(SIGNER) }
    }

    /// Who passed the user on before the last one did.
    pub(super) fn actors(&self) -> Vec<SpiffeId> {
        let hops = self.hops.load();
        let before = hops.split_last().map(|(_, before)| before).unwrap_or_default();
        before.iter().map(|hop| hop.peer().id().clone()).collect()
    }

    /// Who passed the user on, the last one included.
    pub(super) fn signers(&self) -> Vec<SpiffeId> {
        self.hops.load().iter().map(|hop| hop.peer().id().clone()).collect()
    }

    /// The instant at which the first of its certificates ends.
    pub(super) fn ends_at(&self) -> UnixMillis {
        self.hops.load().iter().map(|hop| hop.peer().not_after()).min().unwrap_or(UnixMillis(0))
    }

    /// The instant at which the first of its certificates ends, that of the last hop aside: who made that one proves
    /// anew, for as long as the connection lives, who it is. Those before are nowhere asked again.
    pub(super) fn ends_under_way_at(&self) -> UnixMillis {
        let hops = self.hops.load();
        let before = hops.split_last().map(|(_, before)| before).unwrap_or_default();
        before.iter().map(|hop| hop.peer().not_after()).min().unwrap_or(UnixMillis(u64::MAX))
    }

    /// About how many bytes it holds, or would if nobody else held its certificates too.
    pub(super) fn size(&self) -> usize {
        let hops = self.hops.load();
        hops.iter().flat_map(|hop| hop.peer().chain()).map(|der| der.len()).sum()
    }

    /// Holds it against what is trusted, and who is refused, by now.
    pub(super) fn check(
        &self,
        trusted: &LiveState,
        denied: &Denied,
        vouched: &Vouched,
        now: UnixMillis,
        stage: Stage,
    ) -> Result<(), &'static str> {
        let hops = self.hops.load();
        if hops.iter().any(|hop| is_denied(denied, hop.peer())) {
            return Err(REVOKED);
        }
        let bundle = trusted.bundle();
        let is_proved = |index: usize, hop: &VouchedChain| {
            let is_last = index + 1 == hops.len();
            stage == Stage::UnderWay && is_last && hop.peer().not_after() < now.floor_to_second()
        };
        let stands = |(index, hop): (usize, &Arc<VouchedChain>)| {
            is_proved(index, hop) || hop.stands(bundle, now, Usage::Client)
        };
        if !hops.iter().enumerate().all(stands) {
            let again = hops.iter().enumerate().map(|(index, hop)| match stands((index, hop)) {
                true => Ok(Arc::clone(hop)),
                false => vouched.verify(hop.peer().chain(), bundle, now),
            });
            self.hops.store(Arc::new(again.collect::<Result<_, _>>().map_err(of_certificate)?));
        }
        Ok(())
    }
}

fn is_denied(denied: &Denied, signer: &PeerIdentity) -> bool {
    denied.denial(signer.id(), signer.serial()).is_some()
}

/// What is sent to `audience` in place of `text`, which we have verified ourselves: the same, with one hop more.
pub(super) fn extended(
    text: &str,
    us: &LiveState,
    audience: &SpiffeId,
    now: UnixMillis,
) -> Result<String, &'static str> {
    let Parts { user, mut chain } = Parts::parse(text)?;
    if chain.hops.len() >= MAX_HOPS {
        return Err(TOO_LONG);
    }
    let link = chain.hops.iter().fold(Link::of_user(user), |link, hop| {
        let certificate = CertificateDer::from(hop.certificate.as_slice());
        let said = Hop { certificate: &certificate, audience: &hop.audience, at: UnixMillis(hop.at_unix_ms) };
        link.then(&said, &hop.signature)
    });
    let signature = us.sign_hop(link, audience, now).map_err(|_| UNAVAILABLE)?;
    let (leaf, above) = us.svid().and_then(|svid| svid.chain().split_first()).ok_or(UNAVAILABLE)?;
    let mut authorities = Vec::with_capacity(above.len());
    for der in above {
        let known = chain.authorities.iter().position(|known| known.as_slice() == der.as_ref());
        let place = known.unwrap_or(chain.authorities.len());
        if known.is_none() {
            chain.authorities.push(der.to_vec());
        }
        authorities.push(u32::try_from(place).map_err(|_| MALFORMED)?);
    }
    chain.hops.push(pb::IdentityHop {
        certificate: leaf.to_vec(),
        authorities,
        audience: audience.to_string(),
        at_unix_ms: now.0,
        signature,
    });
    let text = format!("{user}~{}", URL_SAFE_NO_PAD.encode(chain.encode_to_vec()));
    let fits = text.len() <= MAX_LEN && chain.authorities.len() <= MAX_AUTHORITIES;
    if fits { Ok(text) } else { Err(TOO_LARGE) }
}

/// We have no certificate, or no randomness.
pub(super) const UNAVAILABLE: &str = "identity_unavailable";

fn of_certificate(error: VerifyError) -> &'static str {
    match error {
        VerifyError::Expired { .. } => EXPIRED,
        _ => "identity_certificate",
    }
}
