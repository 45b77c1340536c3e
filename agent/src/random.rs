//! Random bytes, and the jitter and backoff made of them.

use std::time::Duration;

/// `N` bytes from the system's random source, or the error that there are none.
///
/// # Errors
/// The source fails, which aws-lc-rs reports without a reason.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// A number from 0 to 1, evenly spread; for jitter alone, so that a failing source gives the middle.
pub fn fraction() -> f64 {
    bytes().map_or(0.5, |bytes| f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

/// The system has no random bytes for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random source fails")]
pub struct NoRandomness;

/// How long to wait before each next attempt: doubling up to a limit, and each a random half to whole of that, so that
/// many agents that lost the control plane at once do not come back at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and grows to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// How long to wait now.
    pub fn step(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        whole.mul_f64(0.5 + fraction() / 2.0)
    }

    /// Begins again, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_begins_again() {
        let (first, most) = (Duration::from_millis(200), Duration::from_secs(10));
        let mut backoff = Backoff::new(first, most);
        let waits: Vec<_> = (0..20).map(|_| backoff.step()).collect();
        assert!(waits[0] >= first / 2 && waits[0] <= first);
        assert!(waits.iter().all(|wait| *wait <= most));
        assert!(waits[19] >= most / 2);
        backoff.reset();
        assert!(backoff.step() <= first);
    }
}
