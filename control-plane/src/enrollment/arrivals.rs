//! How fast a join token makes new instances. A token for any number of agents that somebody has stolen fills a node's
//! places slowly, and while others can still come.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hauberk_identity::UnixMillis;

use super::error::EnrollmentError;
use crate::allowance::Allowances;
use crate::secret::SecretHash;

/// How many new instances a token makes at once, and after how long it makes one more.
pub(super) const AT_ONCE: u32 = 2_000;
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// An address has half of that, so that whoever holds the token somewhere keeps nobody out elsewhere.
pub(super) const AT_ONCE_OF_ADDRESS: u32 = AT_ONCE / 2;
pub(super) const EVERY_OF_ADDRESS: Duration = Duration::from_secs(2 * EVERY.as_secs());

/// The new instances of each token. Counted in memory: a restart lets as many in at once again.
#[derive(Debug)]
pub(super) struct Arrivals {
    of_tokens: Allowances,
    of_addresses: Allowances,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        Self {
            of_tokens: Allowances::new(AT_ONCE, EVERY),
            of_addresses: Allowances::new(AT_ONCE_OF_ADDRESS, EVERY_OF_ADDRESS),
        }
    }

    /// Counts one more instance by a token that is good.
    ///
    /// # Errors
    /// When it has made too many lately, or too many from there.
    pub(super) fn admit(
        &mut self,
        token: &SecretHash,
        source: &str,
        now: UnixMillis,
    ) -> Result<(), EnrollmentError> {
        let token = token.short();
        let too_fast = |again_in| EnrollmentError::TooFast { token: token.to_owned(), again_in };
        // The address first: what it is refused uses up nothing of the token's.
        self.of_addresses.take(&format!("{token}/{}", network(source)), now).map_err(too_fast)?;
        self.of_tokens.take(token, now).map_err(too_fast)
    }
}

/// Whose a source counts as: an IPv4 address, or an IPv6 network, of which one host has as many addresses as it likes.
fn network(source: &str) -> String {
    match source.parse::<SocketAddr>().map(|address| address.ip().to_canonical()) {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}")
        }
        Ok(address) => address.to_string(),
        Err(_) => source.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lets_in_a_crowd_and_then_few() {
        let mut arrivals = Arrivals::new();
        let (token, other) = (SecretHash::of("one"), SecretHash::of("another"));
        let now = UnixMillis(1_000_000);
        let again_in = |result: Result<(), EnrollmentError>| match result.unwrap_err() {
            EnrollmentError::TooFast { again_in, .. } => again_in,
            error => panic!("{error}"),
        };
        for port in 0..1_000 {
            arrivals.admit(&token, &format!("10.0.0.7:{port}"), now).unwrap();
        }
        for port in 0..1_000 {
            let refused = arrivals.admit(&token, &format!("10.0.0.7:{port}"), now);
            assert_eq!(again_in(refused), EVERY_OF_ADDRESS);
        }
        for port in 0..1_000 {
            arrivals.admit(&token, &format!("10.0.0.8:{port}"), now).unwrap();
        }
        assert_eq!(again_in(arrivals.admit(&token, "10.0.0.9:1", now)), EVERY);
        arrivals.admit(&other, "10.0.0.7:1", now).unwrap();
        // With as many addresses as it likes it has filled no node in the ten minutes that a token lives by default.
        let later = now.plus(Duration::from_secs(600));
        let came = (0..10_000).filter(|host| {
            let source = format!("10.1.{}.{}:1", host / 256, host % 256);
            arrivals.admit(&token, &source, later).is_ok()
        });
        assert_eq!(came.count(), 300);
    }

    #[test]
    fn an_ipv6_network_is_one() {
        assert_eq!(network("10.0.0.7:4"), "10.0.0.7");
        assert_eq!(network("[::ffff:10.0.0.7]:4"), "10.0.0.7");
        assert_eq!(network("[2001:db8:0:7::1]:4"), network("[2001:db8:0:7:9::2]:5"));
        assert_ne!(network("[2001:db8:0:7::1]:4"), network("[2001:db8:0:8::1]:4"));
    }
}
