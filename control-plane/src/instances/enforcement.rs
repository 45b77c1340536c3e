//! What one instance has been sent and what it has put in force; and so, whether it enforces a revision.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use hauberk_identity::{Name, UnixMillis};
use tokio::time::Instant;

/// How many views may be on their way to one instance before the oldest is no longer waited for.
const IN_FLIGHT: usize = 32;

/// A view by its number and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewMark {
    /// Unix ms at `init` or at the last restore.
    pub epoch: u64,
    /// The revision at which its content last changed.
    pub revision: u64,
    /// SHA-256 of the encoded view.
    pub digest: [u8; 32],
}

/// What an agent said of a view that it did not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The service whose view it was; `None` for the node's own.
    pub service: Option<String>,
    /// The revision of that view.
    pub revision: u64,
    /// A stable name.
    pub reason: String,
    /// For a person.
    pub detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "refused revision {} of service {service}", self.revision)?,
            None if self.revision == 0 => f.write_str("refused a view")?,
            None => write!(f, "refused revision {}", self.revision)?,
        }
        write!(f, ": {}", self.reason)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

/// Why an instance does not enforce a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lag {
    /// Its stream is down, and what it holds is not known to be enough.
    NotConnected,
    /// It holds more than this control plane has: nothing is pushed to it.
    Ahead {
        /// The highest epoch that it has accepted.
        epoch: u64,
        /// The highest revision in that epoch.
        revision: u64,
    },
    /// The view that was pushed was refused.
    Refused(Refusal),
    /// A view was pushed and is not answered yet.
    NotAcknowledged,
    /// The view is about to be pushed.
    NotPushed,
    /// The control plane has not made the view, or could not make all of the mesh's.
    NotCompiled,
    /// The control plane cannot make its view, until the configuration is another.
    Obstructed {
        /// What cannot be made, and why.
        why: String,
        /// What to do about it.
        fix: String,
    },
    /// The control plane cannot make the denylist of all that is revoked.
    NoDenylist,
    /// Its virtual node is gone, and it has not said that it denies everything.
    NotDismissed,
    /// Its virtual node does not exist, and nothing proves that it ever did: it is not told.
    NodeUnknown,
    /// It knows who is revoked by the serial numbers of certificates alone, and there are too many to name.
    KnowsNoInstances {
        /// The end of the last certificate that it does not refuse.
        until: UnixMillis,
    },
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("not connected"),
            Self::Ahead { epoch, revision } => {
                write!(f, "holds epoch {epoch} revision {revision}, which is newer than the control plane's")
            }
            Self::Refused(refusal) => refusal.fmt(f),
            Self::NotAcknowledged => f.write_str("pushed, not acknowledged"),
            Self::NotPushed => f.write_str("not pushed yet"),
            Self::NotCompiled => f.write_str("its view is not compiled"),
            Self::Obstructed { why, .. } => write!(f, "its view cannot be compiled: {why}"),
            Self::NoDenylist => f.write_str("what was revoked last cannot be put on the denylist"),
            Self::NotDismissed => f.write_str(
                "its virtual node or gateway was deleted, and it has not confirmed that it denies everything",
            ),
            Self::NodeUnknown => f.write_str(
                "its virtual node or gateway does not exist, and no record tells that it was deleted: it goes on with what it holds",
            ),
            Self::KnowsNoInstances { until } => write!(
                f,
                "its release does not know revoked instances, and accepts certificates of theirs that are not named one by \
                 one, until {until}"
            ),
        }
    }
}

/// The views of one instance: its node's own and those of the services it holds.
#[derive(Debug, Default)]
pub struct Enforcement {
    node: Progress,
    services: BTreeMap<Name, Progress>,
    /// Of a view that the agent could not tell the number of: its signature is bad, or it cannot be read.
    unidentified: Option<Refusal>,
}

/// How far one view has come.
#[derive(Debug, Default)]
struct Progress {
    in_flight: VecDeque<(ViewMark, Instant)>,
    in_force: Option<ViewMark>,
    refusal: Option<Refusal>,
}

impl Enforcement {
    /// Begins from what an agent says it holds.
    pub fn new(node: Option<ViewMark>, services: impl IntoIterator<Item = (Name, Option<ViewMark>)>) -> Self {
        let services = services.into_iter().map(|(name, mark)| (name, Progress::holding(mark))).collect();
        Self { node: Progress::holding(node), services, unidentified: None }
    }

    /// Notes that a view is on its way; `None` for the node's own.
    pub fn pushed(&mut self, service: Option<&Name>, mark: ViewMark, at: Instant) {
        match service {
            None => self.node.pushed(mark, at),
            Some(name) => self.services.entry(name.clone()).or_default().pushed(mark, at),
        }
    }

    /// Notes that a view is in force. Gives the time from its push, or `None` where no such view was pushed.
    pub fn acknowledged(
        &mut self,
        service: Option<&str>,
        epoch: u64,
        revision: u64,
        at: Instant,
    ) -> Option<Duration> {
        let after = self.progress(service)?.acknowledged(epoch, revision, at)?;
        self.unidentified = None;
        Some(after)
    }

    /// Notes a refusal. One of a view that was never pushed is taken for one that the agent could not identify.
    pub fn refused(&mut self, service: Option<&str>, epoch: u64, refusal: Refusal) {
        let known = self.progress(service).is_some_and(|progress| progress.refused(epoch, &refusal));
        if !known {
            self.unidentified = Some(refusal);
        }
    }

    /// Forgets a service that the instance no longer holds.
    pub fn dropped(&mut self, service: &str) {
        self.services.remove(service);
    }

    /// The services that it holds or has been sent.
    pub fn services(&self) -> impl Iterator<Item = &Name> {
        self.services.keys()
    }

    /// The node view in force.
    pub fn in_force(&self) -> Option<ViewMark> {
        self.node.in_force
    }

    /// The refusal that stands, the node view's first.
    pub fn refusal(&self) -> Option<&Refusal> {
        std::iter::once(&self.node)
            .chain(self.services.values())
            .find_map(|progress| progress.refusal.as_ref())
    }

    /// Why the node's own view is not at `revision`, given what is `wanted` now.
    pub fn node_lag(&self, wanted: ViewMark, revision: u64) -> Option<Lag> {
        self.node.lag(wanted, revision, self.unidentified.as_ref())
    }

    /// Why the view of `service` is not at `revision`, given what is `wanted` now.
    pub fn service_lag(&self, service: &str, wanted: ViewMark, revision: u64) -> Option<Lag> {
        match self.services.get(service) {
            Some(progress) => progress.lag(wanted, revision, self.unidentified.as_ref()),
            None => Some(Lag::NotPushed),
        }
    }

    fn progress(&mut self, service: Option<&str>) -> Option<&mut Progress> {
        match service {
            None => Some(&mut self.node),
            Some(name) => self.services.get_mut(name),
        }
    }
}

impl Progress {
    fn holding(in_force: Option<ViewMark>) -> Self {
        Self { in_force, ..Self::default() }
    }

    fn pushed(&mut self, mark: ViewMark, at: Instant) {
        if self.in_flight.len() == IN_FLIGHT {
            self.in_flight.pop_front();
        }
        self.in_flight.push_back((mark, at));
    }

    fn acknowledged(&mut self, epoch: u64, revision: u64, at: Instant) -> Option<Duration> {
        let (mark, pushed_at) = self.take(epoch, revision)?;
        self.in_force = Some(mark);
        self.refusal = None;
        Some(at.saturating_duration_since(pushed_at))
    }

    fn refused(&mut self, epoch: u64, refusal: &Refusal) -> bool {
        let known = self.take(epoch, refusal.revision).is_some();
        if known {
            self.refusal = Some(refusal.clone());
        }
        known
    }

    /// Answers come in order: an answer to one view is the last word on those before it.
    fn take(&mut self, epoch: u64, revision: u64) -> Option<(ViewMark, Instant)> {
        let at =
            self.in_flight.iter().position(|(mark, _)| mark.epoch == epoch && mark.revision == revision)?;
        self.in_flight.drain(..=at).next_back()
    }

    /// In force at `revision`: acknowledged at or above it, or unchanged by it, which holds where what is wanted now
    /// is what is in force.
    fn lag(&self, wanted: ViewMark, revision: u64, unidentified: Option<&Refusal>) -> Option<Lag> {
        let enforced = self.in_force.is_some_and(|held| {
            held.digest == wanted.digest || (held.epoch == wanted.epoch && held.revision >= revision)
        });
        if enforced {
            return None;
        }
        Some(match (&self.refusal, self.in_flight.is_empty()) {
            (_, false) => unidentified.map_or(Lag::NotAcknowledged, |refusal| Lag::Refused(refusal.clone())),
            (Some(refusal), true) => Lag::Refused(refusal.clone()),
            (None, true) => Lag::NotPushed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(revision: u64, content: u8) -> ViewMark {
        ViewMark { epoch: 1, revision, digest: [content; 32] }
    }

    fn refusal(revision: u64) -> Refusal {
        Refusal { service: None, revision, reason: "invalid".into(), detail: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_is_enforced_once_it_is_acknowledged() {
        let mut enforcement = Enforcement::default();
        let wanted = mark(5, 5);
        assert_eq!(enforcement.node_lag(wanted, 5), Some(Lag::NotPushed));
        enforcement.pushed(None, wanted, Instant::now());
        assert_eq!(enforcement.node_lag(wanted, 5), Some(Lag::NotAcknowledged));
        tokio::time::advance(Duration::from_millis(20)).await;
        let taken = enforcement.acknowledged(None, 1, 5, Instant::now());
        assert_eq!(taken, Some(Duration::from_millis(20)));
        assert_eq!(enforcement.node_lag(wanted, 5), None);
    }

    #[tokio::test]
    async fn an_unchanged_view_is_enforced_at_every_later_revision() {
        let enforcement = Enforcement::new(Some(mark(5, 5)), []);
        assert_eq!(enforcement.node_lag(mark(5, 5), 900), None);
        assert_eq!(enforcement.node_lag(mark(9, 9), 5), None, "it holds revision 5, which is what was asked");
        assert_eq!(enforcement.node_lag(mark(9, 9), 6), Some(Lag::NotPushed));
    }

    #[tokio::test]
    async fn an_answer_to_a_view_that_was_never_pushed_changes_nothing() {
        let mut enforcement = Enforcement::default();
        enforcement.pushed(None, mark(5, 5), Instant::now());
        assert_eq!(enforcement.acknowledged(None, 1, 6, Instant::now()), None);
        assert_eq!(enforcement.acknowledged(None, 2, 5, Instant::now()), None);
        assert_eq!(enforcement.node_lag(mark(5, 5), 5), Some(Lag::NotAcknowledged));
    }

    #[tokio::test]
    async fn a_refusal_without_a_number_is_one_of_what_is_on_its_way() {
        let mut enforcement = Enforcement::default();
        enforcement.pushed(None, mark(5, 5), Instant::now());
        enforcement.refused(None, 0, refusal(0));
        assert_eq!(enforcement.node_lag(mark(5, 5), 5), Some(Lag::Refused(refusal(0))));
        enforcement.acknowledged(None, 1, 5, Instant::now());
        assert_eq!((enforcement.node_lag(mark(5, 5), 5), enforcement.refusal()), (None, None));
    }

    #[tokio::test]
    async fn a_refusal_stands_until_a_later_view_is_taken() {
        let mut enforcement = Enforcement::default();
        enforcement.pushed(None, mark(5, 5), Instant::now());
        enforcement.refused(None, 1, refusal(5));
        assert_eq!(enforcement.node_lag(mark(5, 5), 5), Some(Lag::Refused(refusal(5))));
        enforcement.pushed(None, mark(6, 6), Instant::now());
        enforcement.acknowledged(None, 1, 6, Instant::now());
        assert_eq!(enforcement.refusal(), None);
    }

    #[tokio::test]
    async fn an_old_epoch_proves_nothing_about_a_new_one() {
        let enforcement = Enforcement::new(Some(mark(900, 5)), []);
        let wanted = ViewMark { epoch: 2, revision: 10, digest: [1; 32] };
        assert_eq!(enforcement.node_lag(wanted, 10), Some(Lag::NotPushed));
    }
}
