//! How far this host's clock is from the control plane's, told in seconds.
//!
//! Nobody's time is believed: what the control plane says serves to name what is wrong, and to ask for no certificate
//! that would be of no use. It never makes anything valid.

use std::time::{Duration, UNIX_EPOCH};
use std::{fmt, io};

use bytes::Bytes;
use hauberk_identity::UnixMillis;
use hauberk_tls::{BootstrapTrust, clock_connector};
use http::header::{CONTENT_TYPE, DATE, HeaderMap};
use http_body_util::Full;
use tonic::body::Body;
use tonic::transport::Channel;
use tower_service::Service;

use crate::clock::Clock;
use crate::config::HostPort;
use crate::control_plane::{self, ALPN, ConnectError, HANDSHAKE_TIMEOUT};

/// By how much clocks may differ: certificates are valid from so long before they are issued.
pub(crate) const TOLERATED: Duration = Duration::from_secs(300);
/// How long asking may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A call that everybody may make, and that changes nothing.
const ASKED: &str = "http://control-plane.hauberk/grpc.health.v1.Health/Check";
/// An empty message, as gRPC frames it.
const EMPTY: &[u8] = &[0; 5];

/// A difference between clocks that is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skew {
    /// This host's clock is this much behind the control plane's.
    Behind(Duration),
    /// This much ahead of it.
    Ahead(Duration),
}

impl Skew {
    /// The difference, unless it is tolerated.
    fn between(ours: UnixMillis, theirs: UnixMillis) -> Option<Self> {
        if theirs.since(ours) > TOLERATED {
            Some(Self::Behind(theirs.since(ours)))
        } else if ours.since(theirs) > TOLERATED {
            Some(Self::Ahead(ours.since(theirs)))
        } else {
            None
        }
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, direction) = match self {
            Self::Behind(by) => (by, "behind"),
            Self::Ahead(by) => (by, "ahead of"),
        };
        let seconds = in_groups(by.as_secs());
        write!(
            f,
            "this host's clock is {seconds} s {direction} the control plane's: let both keep time by NTP"
        )
    }
}

/// Asks over a channel that is there.
pub(crate) async fn over(channel: &mut Channel, clock: Clock) -> Option<Skew> {
    agrees_over(channel, clock).await?.err()
}

async fn agrees_over(channel: &mut Channel, clock: Clock) -> Option<Result<(), Skew>> {
    let request = http::Request::post(ASKED)
        .header(CONTENT_TYPE, "application/grpc")
        .body(Body::new(Full::new(Bytes::from_static(EMPTY))))
        .ok()?;
    std::future::poll_fn(|context| channel.poll_ready(context)).await.ok()?;
    let answer = channel.call(request).await.ok()?;
    Some(Skew::between(clock.now(), date(answer.headers())?).map_or(Ok(()), Err))
}

/// Asks over a connection of its own, after one has failed: perhaps for the clock. `None` where it was not that.
pub(crate) async fn ask(address: &HostPort, trust: BootstrapTrust, clock: Clock) -> Option<Skew> {
    agrees(address, trust, clock).await.ok()??.err()
}

/// Whether our clock agrees with the control plane's, or by how much it does not; `None` where that is there and does
/// not say.
///
/// # Errors
/// It is not there, or `trust` does not vouch for it.
pub(crate) async fn agrees(
    address: &HostPort,
    trust: BootstrapTrust,
    clock: Clock,
) -> Result<Option<Result<(), Skew>>, ConnectError> {
    let asking = async {
        let Ok(connector) = clock_connector(trust, ALPN, HANDSHAKE_TIMEOUT) else { return Ok(None) };
        let mut channel = control_plane::connect(address, &connector).await?;
        Ok(agrees_over(&mut channel, clock).await)
    };
    // Seldom needed, and larger than what it is a part of.
    tokio::time::timeout(PATIENCE, Box::pin(asking)).await.unwrap_or_else(|_| {
        let source = io::ErrorKind::TimedOut.into();
        Err(ConnectError::Unreachable { address: address.authority(), source })
    })
}

/// The difference that a certificate tells that came just now, unless it is none of whole seconds.
pub(crate) fn of_issued(issued_at: UnixMillis, now: UnixMillis) -> Option<Skew> {
    let (ahead, behind) = (now.since(issued_at), issued_at.since(now));
    let second = Duration::from_secs(1);
    (ahead >= second)
        .then_some(Skew::Ahead(ahead))
        .or_else(|| (behind >= second).then_some(Skew::Behind(behind)))
}

/// A problem, and the difference that may be its cause.
pub(crate) fn named(skew: Option<Skew>, problem: String) -> String {
    match skew {
        Some(skew) => format!("{skew} ({problem})"),
        None => problem,
    }
}

/// When a server answered (RFC 9110 §6.6.1), in whole seconds.
fn date(headers: &HeaderMap) -> Option<UnixMillis> {
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(UnixMillis::from_secs(date.duration_since(UNIX_EPOCH).ok()?.as_secs()))
}

/// A number as people read it: `34,560,000`.
fn in_groups(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_five_minutes_is_tolerated_and_the_rest_is_told_in_seconds() {
        let told = |ours: u64, theirs: u64| {
            Skew::between(UnixMillis::from_secs(ours), UnixMillis::from_secs(theirs))
                .map(|skew| skew.to_string())
        };
        assert_eq!(told(10_000, 10_300), None);
        assert_eq!(told(10_300, 10_000), None);
        let behind = told(10_000, 17_204).unwrap();
        assert!(behind.starts_with("this host's clock is 7,204 s behind the control plane's"), "{behind}");
        let ahead = told(1_034_560_000, 1_000_000_000).unwrap();
        assert!(
            ahead.starts_with("this host's clock is 34,560,000 s ahead of the control plane's"),
            "{ahead}"
        );
        assert_eq!([in_groups(0), in_groups(999), in_groups(1_000)], ["0", "999", "1,000"]);
    }

    #[test]
    fn only_a_well_formed_date_counts() {
        let of =
            |text: &'static str| date(&HeaderMap::from_iter([(DATE, http::HeaderValue::from_static(text))]));
        assert_eq!(of("Thu, 01 Jan 1970 00:01:40 GMT"), Some(UnixMillis::from_secs(100)));
        assert_eq!(of("soon"), None);
        assert_eq!(date(&HeaderMap::new()), None);
    }
}
