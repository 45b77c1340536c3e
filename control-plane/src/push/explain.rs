//! "That denial?" The agent that decided is asked; if it is away, what it sent up at the time must do.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{InstanceId, SpiffeId, UnixMillis};
use hauberk_proto::agent::v1 as agent;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Push;
use super::recall::{Present, RulesSince, recall, rules_since, without_policies};
use crate::bulkhead::Bulkhead;
use crate::compile::CompiledView;
use crate::flows::{KeptDecision, instance_of_decision};
use crate::instances::Ask;

/// How long an agent may think about a question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A decision and where the knowledge of it comes from.
#[derive(Debug, Clone)]
pub struct Explained {
    /// The decision and, from an agent, why it came about.
    pub detail: agent::DecisionDetail,
    /// When the control plane heard of it; `None` if the agent itself has answered.
    pub kept_at: Option<UnixMillis>,
    /// What has become of the rules since, where they have changed.
    pub rules_since: Option<RulesSince>,
}

/// Why a decision cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// The caller's id is none.
    #[error("{0:?} is not a decision id: these look like 3f9k2m7q1x-8c4d0001")]
    Malformed(String),
    /// No instance of that name has been here.
    #[error("instance {0}, which the id names, is not known here (any longer)")]
    UnknownInstance(InstanceId),
    /// The instance is away and did not send that decision.
    #[error(
        "instance {instance} of {spiffe_id} is not connected, and it had not sent this decision up before"
    )]
    Gone {
        /// Which.
        instance: InstanceId,
        /// Of what.
        spiffe_id: SpiffeId,
    },
    /// The instance is here and does not know.
    #[error(
        "instance {instance} of {spiffe_id} does not remember this decision: it keeps its last denials only"
    )]
    Forgotten {
        /// Which.
        instance: InstanceId,
        /// Of what.
        spiffe_id: SpiffeId,
    },
    /// The instance is here and does not answer.
    #[error("instance {instance} of {spiffe_id} has not answered within {} seconds", ANSWER_WITHIN.as_secs())]
    NoAnswer {
        /// Which.
        instance: InstanceId,
        /// Of what.
        spiffe_id: SpiffeId,
    },
}

impl Push {
    /// Explains a decision by its id, which names the instance that made it. `asker`: where it waits for its turn to compile a view,
    /// and whose turn that is.
    ///
    /// # Errors
    /// Says what is not known: the instance, or its decision.
    pub async fn explain(&self, id: &str, asker: (&Bulkhead, &str)) -> Result<Explained, ExplainError> {
        let instance = instance_of_decision(id)
            .ok_or_else(|| ExplainError::Malformed(id.chars().take(100).collect()))?;
        let unanswered = match self.ask(instance, id).await {
            Ok(detail) => {
                let rules_since = match &detail.decision {
                    Some(decision) => rules_since(decision, self.present(decision), asker).await,
                    None => None,
                };
                return Ok(Explained { detail, kept_at: None, rules_since });
            }
            Err(unanswered) => unanswered,
        };
        if let Some(KeptDecision { decision, kept_at }) = self.flows.kept_decision(id) {
            let kept_at = Some(kept_at);
            return Ok(match self.present(&decision) {
                Present::Same(view) => {
                    Explained { detail: recall(decision, view, asker).await, kept_at, rules_since: None }
                }
                other => {
                    let rules_since = rules_since(&decision, other, asker).await;
                    let detail = match self.former(&decision) {
                        Some(view) => recall(decision, view, asker).await,
                        None => without_policies(&decision, agent::NoPolicies::RulesGone),
                    };
                    Explained { detail, kept_at, rules_since }
                }
            });
        }
        let spiffe_id = self.instances.node_of(instance).ok_or(ExplainError::UnknownInstance(instance))?;
        Err(match unanswered {
            Unanswered::Gone => ExplainError::Gone { instance, spiffe_id },
            Unanswered::Silent => ExplainError::NoAnswer { instance, spiffe_id },
            Unanswered::Forgotten => ExplainError::Forgotten { instance, spiffe_id },
        })
    }

    fn present(&self, decision: &agent::Decision) -> Present {
        Present::of(decision, &self.compilation.borrow())
    }

    /// The view by which it was decided, where that is another one by now.
    fn former(&self, decision: &agent::Decision) -> Option<Arc<CompiledView>> {
        let compilation = Arc::clone(&self.compilation.borrow());
        let is_known = decision.epoch == compilation.epoch;
        is_known.then(|| compilation.former.find(&decision.node, decision.revision)).flatten()
    }

    async fn ask(&self, instance: InstanceId, id: &str) -> Result<agent::DecisionDetail, Unanswered> {
        let questions = self.instances.questions(instance).ok_or(Unanswered::Gone)?;
        let (answer, answered) = oneshot::channel();
        let ask = Ask { decision_id: id.to_owned(), answer };
        questions.try_send(ask).map_err(|_| Unanswered::Silent)?;
        match timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(detail)) => detail.ok_or(Unanswered::Forgotten),
            // Too late; or the session ended while it was asked, or has too many questions open.
            Err(_) | Ok(Err(_)) => Err(Unanswered::Silent),
        }
    }
}

/// Why an agent did not answer.
enum Unanswered {
    Gone,
    Silent,
    Forgotten,
}
