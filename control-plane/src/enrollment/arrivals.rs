//! How fast a join token makes new instances. A token for any number of agents that somebody has stolen fills a node's
//! places slowly, and while others can still come.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hauberk_identity::UnixMillis;

use super::error::EnrollmentError;
use crate::allowance::Allowances;
use crate::secret::SecretHash;

/// How many new instances a token for any number makes at once, and after how long it makes one more. With as many addresses
/// as he likes a thief fills the places of a node in over an hour and a half, and not in the ten minutes that tokens live by
/// default.
pub(crate) const AT_ONCE: u32 = 4_000;
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// An address has a quarter of that, which lets in a thousand agents behind one NAT: whoever holds the token at up to three
/// addresses keeps nobody out elsewhere. At four and more he does, until the token is deleted.
const SHARE_OF_ADDRESS: u32 = 4;
pub(super) const AT_ONCE_OF_ADDRESS: u32 = AT_ONCE / SHARE_OF_ADDRESS;
pub(super) const EVERY_OF_ADDRESS: Duration = Duration::from_secs(EVERY.as_secs() * SHARE_OF_ADDRESS as u64);

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
    /// When it has made too many lately, or too many from there; nothing is used up.
    pub(super) fn take(
        &mut self,
        token: &SecretHash,
        source: &str,
        now: UnixMillis,
    ) -> Result<(), EnrollmentError> {
        let too_fast = |again_in| EnrollmentError::TooFast { token: token.short().to_owned(), again_in };
        let of_address = of_address(token, source);
        self.of_addresses.take(&of_address, now).map_err(too_fast)?;
        let taken = self.of_tokens.take(token.short(), now);
        if taken.is_err() {
            self.of_addresses.give_back(&of_address);
        }
        taken.map_err(too_fast)
    }

    /// It did not come to the instance.
    pub(super) fn give_back(&mut self, token: &SecretHash, source: &str) {
        self.of_addresses.give_back(&of_address(token, source));
        self.of_tokens.give_back(token.short());
    }
}

fn of_address(token: &SecretHash, source: &str) -> String {
    format!("{}/{}", token.short(), network(source))
}

/// Whose a source counts as: an IPv4 address, or an IPv6 network, of which one host has as many addresses as it likes.
pub(super) fn network(source: &str) -> String {
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
        let mut admit = |token: &SecretHash, source: &str, now| {
            arrivals.take(token, source, now).map_err(|error| match error {
                EnrollmentError::TooFast { again_in, .. } => again_in,
                error => panic!("{error}"),
            })
        };
        for address in 1..=3 {
            for port in 0..1_000 {
                admit(&token, &format!("10.0.0.{address}:{port}"), now).unwrap();
            }
            assert_eq!(admit(&token, &format!("10.0.0.{address}:1"), now), Err(EVERY_OF_ADDRESS));
        }
        for port in 0..1_000 {
            admit(&token, &format!("10.0.0.4:{port}"), now).unwrap();
        }
        for _ in 0..=AT_ONCE_OF_ADDRESS {
            assert_eq!(admit(&token, "10.0.0.9:1", now), Err(EVERY), "which uses up nothing of the address");
        }
        admit(&other, "10.0.0.1:1", now).unwrap();
        // With as many addresses as it likes it has filled no node in the ten minutes that a token lives by default.
        let later = now.plus(Duration::from_secs(600));
        let came = (0..10_000).filter(|host| {
            let source = format!("10.1.{}.{}:1", host / 256, host % 256);
            admit(&token, &source, later).is_ok()
        });
        assert_eq!(came.count(), 600);
    }

    #[test]
    fn an_ipv6_network_is_one() {
        assert_eq!(network("10.0.0.7:4"), "10.0.0.7");
        assert_eq!(network("[::ffff:10.0.0.7]:4"), "10.0.0.7");
        assert_eq!(network("[2001:db8:0:7::1]:4"), network("[2001:db8:0:7:9::2]:5"));
        assert_ne!(network("[2001:db8:0:7::1]:4"), network("[2001:db8:0:8::1]:4"));
    }
}
