//! Who somebody is who joins anew: it stays that, and what was made before it was revoked does not bring it back.

use hauberk_identity::{InstanceId, Serial, SpiffeId, UnixMillis};

use super::error::EnrollmentError;
use super::join::Enrollment;
use super::token::TokenRecord;
use crate::registry::Commit;
use crate::revocation;

/// An instance that joins anew, by its own account. That lets it in nowhere: it only keeps it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// Which it is.
    pub instance: InstanceId,
    /// Who.
    pub spiffe_id: SpiffeId,
    /// Of the certificate that it holds, if it does.
    pub certificate: Option<Serial>,
}

impl Enrollment {
    /// Whether whoever was `former` is let in as `makes`, by this token where it is one. What comes of it holds only
    /// while it is not revoked anew.
    ///
    /// # Errors
    /// It would be somebody else, or the token was there before it was revoked. The store cannot be read.
    pub(super) async fn check_former(
        &self,
        commit: Commit,
        former: Option<&Former>,
        makes: &SpiffeId,
        token: Option<&TokenRecord>,
    ) -> Result<Commit, EnrollmentError> {
        let Some(Former { instance, spiffe_id, certificate }) = former else { return Ok(commit) };
        if spiffe_id != makes {
            let (instance, before, now) = (*instance, spiffe_id.clone(), makes.clone());
            return Err(EnrollmentError::SomebodyElse { instance, before, now });
        }
        // Evidence is judged as it is now: it has no time at which somebody made it.
        let Some(token) = token else { return Ok(commit) };
        let (commit, revoked) =
            revocation::last_revoked(&*self.store, commit, instance, *certificate).await?;
        match (revoked, UnixMillis(token.created_at)) {
            (Some(revoked), made) if made <= revoked => {
                Err(EnrollmentError::TokenOfBefore { instance: *instance, made, revoked })
            }
            _ => Ok(commit),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hauberk_identity::{Name, NodeName};

    use super::super::{AgentInfo, Enrolled, TokenFor, TokenRequest, Uses};
    use super::*;
    use crate::audit::Filter;
    use crate::registry::keys;
    use crate::revocation::Target;
    use crate::testing::{NODE, Scratch, a_node, actor, request, scratch};

    async fn token(scratch: &Scratch, node: &str) -> String {
        // Whoever is refused here comes after somebody else has revoked, or made it.
        scratch.clock.advance(Duration::from_secs(1));
        let (mesh, of) = (Name::parse(NODE.0).unwrap(), TokenFor::Node(NodeName::parse(node).unwrap()));
        let asked = TokenRequest { mesh, of, ttl: None, uses: Uses::Limited(1) };
        scratch.control.tokens.create(asked, &actor()).await.unwrap().secret.reveal().to_owned()
    }

    async fn join(
        scratch: &Scratch,
        token: &str,
        former: Option<&Former>,
    ) -> Result<Enrolled, EnrollmentError> {
        let (csr, info) = (request().1, AgentInfo::default());
        scratch.control.enrollment.attest(token, &csr, info, former, "10.0.0.7:4").await
    }

    fn former(enrolled: &Enrolled) -> Former {
        let svid = &enrolled.issued.svid;
        let (spiffe_id, certificate) = (svid.id().clone(), Some(svid.serial()));
        Former { instance: enrolled.instance, spiffe_id, certificate }
    }

    /// The reason; the caller is told no more than that, and the administrator all of these.
    async fn refused(
        scratch: &Scratch,
        result: Result<Enrolled, EnrollmentError>,
        told: &[&str],
    ) -> &'static str {
        let error = result.unwrap_err();
        let caller = crate::rpc::status::of_enrollment(&error);
        assert_eq!(caller.code(), tonic::Code::PermissionDenied);
        let filter = Filter { refused_only: true, ..Filter::default() };
        let recorded = scratch.control.audit.list(&filter, None, 1).await.unwrap().records;
        for part in told {
            assert!(!caller.message().contains(part), "{}", caller.message());
            assert!(recorded[0].reason.contains(part), "{part}: {}", recorded[0].reason);
        }
        error.reason()
    }

    async fn revoke(scratch: &Scratch, target: Target) {
        scratch.clock.advance(Duration::from_secs(1));
        scratch.control.revocations.revoke(&target, &actor()).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_made_before_a_revocation_does_not_undo_it() {
        let scratch = scratch().await;
        let first = join(&scratch, &token(&scratch, NODE.1).await, None).await.unwrap();
        let (was, lies_there) = (former(&first), token(&scratch, NODE.1).await);
        revoke(&scratch, Target::Instance(first.instance)).await;
        let told = [was.instance.to_string(), scratch.clock.now().to_string()];
        let result = join(&scratch, &lies_there, Some(&was)).await;
        let reason = refused(&scratch, result, &[&told[0], &told[1]]).await;
        assert_eq!(reason, "TOKEN_BEFORE_REVOCATION");
        let made = token(&scratch, NODE.1).await;
        let second = join(&scratch, &made, Some(&was)).await.unwrap();
        // It is not used up: whoever it is for comes in by it.
        join(&scratch, &lies_there, None).await.unwrap();

        // A certificate alone is as much a revocation; of another one that says nothing.
        let (was, lies_there) = (former(&second), token(&scratch, NODE.1).await);
        revoke(&scratch, Target::Serial(second.issued.svid.serial())).await;
        let result = join(&scratch, &lies_there, Some(&was)).await;
        assert_eq!(refused(&scratch, result, &[]).await, "TOKEN_BEFORE_REVOCATION");
        let another = Former { certificate: Some(first.issued.svid.serial()), ..was };
        let result = join(&scratch, &lies_there, Some(&another)).await;
        result.unwrap();
    }

    #[tokio::test]
    async fn nobody_is_made_somebody_else_of() {
        let scratch = scratch().await;
        let key = keys::resource("VirtualNode", NODE.0, "web");
        scratch.control.store.commit(Commit::new().put(key, a_node("web"))).await.unwrap();
        let first = join(&scratch, &token(&scratch, NODE.1).await, None).await.unwrap();
        let (was, of_another) = (former(&first), token(&scratch, "web").await);
        let result = join(&scratch, &of_another, Some(&was)).await;
        assert_eq!(refused(&scratch, result, &["node/orders", "node/web"]).await, "SOMEBODY_ELSE");
        let certificates = scratch.control.ledger.certificates(None, None, 100).await.unwrap().certificates;
        assert_eq!(certificates.len(), 1);
        join(&scratch, &of_another, None).await.unwrap();
        // By what is its own it joins anew, as where its certificate has expired.
        let again = join(&scratch, &token(&scratch, NODE.1).await, Some(&was)).await.unwrap();
        assert_ne!(again.instance, first.instance);
    }
}
