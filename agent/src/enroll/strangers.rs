//! Somebody else who answers in the place of the control plane that let us in before.

use std::time::Duration;

use tokio::time::Instant;

/// For how long every attempt has to meet them until they are taken for what is there now.
pub(super) const STAY: Duration = Duration::from_secs(60);

/// Since when every attempt has met strangers.
#[derive(Default)]
pub(super) struct Strangers(pub(super) Option<Instant>);

impl Strangers {
    /// Another has answered. Whether that has been so for long enough to be no accident: whoever is on the way, such as
    /// a network that first wants its terms accepted, does not get to end an agent.
    pub(super) fn are_to_stay(&mut self) -> bool {
        self.0.get_or_insert_with(Instant::now).elapsed() >= STAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_stays_for_a_minute_is_there_for_good() {
        let mut strangers = Strangers::default();
        assert!(!strangers.are_to_stay());
        tokio::time::advance(STAY - Duration::from_millis(1)).await;
        assert!(!strangers.are_to_stay());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(strangers.are_to_stay());
    }
}
