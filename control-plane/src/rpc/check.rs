//! What a question about policies says of the caller's connection, the time and the request's head.

use std::net::IpAddr;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_policy::{Engine, Gathered, Moment, Peer, Tls};
use hauberk_proto::admin::v1::CheckRequest;
use tonic::Status;

use super::status;

/// What does not depend on what is asked for.
pub(super) struct Circumstances {
    pub(super) peer: Peer,
    pub(super) moment: Moment,
}

impl Circumstances {
    /// What the request says, completed by what holds between agents of this release.
    pub(super) fn of(request: &CheckRequest, now: UnixMillis) -> Result<Self, Status> {
        let CheckRequest { address, at, certificate_age_s, .. } = request;
        let address: Option<IpAddr> = match address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| status::bad_field("address", "this is no IP address"))?),
        };
        let time = at.as_ref().map_or(now, |at| {
            let seconds = u64::try_from(at.seconds).unwrap_or_default();
            UnixMillis::from_secs(seconds)
                .plus(Duration::from_nanos(u64::try_from(at.nanos).unwrap_or_default()))
        });
        let certificate_since = Some(time.minus(Duration::from_secs(*certificate_age_s)));
        let tls = Tls { version: "TLSv1.3".into(), group: "X25519MLKEM768".into() };
        Ok(Self { peer: Peer::new(address, Some(tls)), moment: Moment { time, certificate_since } })
    }
}

/// What the node's agents would gather of such a request.
pub(super) fn gathered(request: &CheckRequest, engine: &Engine, port: u16) -> Gathered {
    let CheckRequest { target, host, headers, .. } = request;
    let host = if host.is_empty() { target } else { host };
    let lines = headers.iter().flat_map(|lines| {
        let unreadable = lines.unreadable.then_some(&b"\xff"[..]);
        let values = lines.values.iter().map(String::as_bytes).chain(unreadable);
        values.map(|value| (lines.name.as_str(), value))
    });
    engine.wanted(port).map(|wanted| wanted.gather(host, lines)).unwrap_or_default()
}
