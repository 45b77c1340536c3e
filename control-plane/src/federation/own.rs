//! Our own bundle, as others are told it: numbered so that each content has a number of its own, and a later one a
//! greater.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use hauberk_tls::bundle_document;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::clock::Clock;
use crate::jwt_svid::SigningKeys;
use crate::registry::{Commit, Store, StoreError, document, keys};

/// How often others are asked to look: a quarter of this is what SPIRE and we make of it, and a key that signs tokens is
/// published for twice as long before it does.
pub const REFRESH_HINT: Duration = Duration::from_secs(300);

/// Before numbering is tried again that failed.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Our bundle with its number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnBundle {
    /// In SPIFFE's bundle format; empty before the first is numbered.
    pub document: String,
    /// Its number.
    pub sequence: u64,
    /// How many keys for JWT-SVIDs it has.
    pub jwt_keys: usize,
}

/// What our bundle is made of.
pub struct OwnBundleParts {
    /// The registry.
    pub store: Arc<dyn Store>,
    /// The roots.
    pub authority: Arc<Authority>,
    /// The keys for tokens.
    pub signing_keys: Arc<SigningKeys>,
    /// The time.
    pub clock: Clock,
}

#[derive(Serialize, Deserialize)]
struct Record {
    sequence: u64,
    #[serde(with = "document::base64_bytes")]
    digest: Vec<u8>,
}

/// Numbers our bundle at each change of its keys, until `stop`. What cannot be numbered is not told.
pub async fn publish(
    parts: OwnBundleParts,
    published: watch::Sender<Arc<OwnBundle>>,
    stop: CancellationToken,
) {
    let mut trust = parts.authority.trust();
    let mut tokens = parts.signing_keys.subscribe();
    loop {
        trust.mark_unchanged();
        tokens.mark_unchanged();
        let wait = match parts.number().await {
            Ok(bundle) => {
                published.send_if_modified(|current| {
                    let differs = **current != bundle;
                    *current = Arc::new(bundle);
                    differs
                });
                None
            }
            Err(error) => {
                tracing::error!(event = "own_bundle_failed", %error, "the former bundle is told to others");
                Some(TRY_AGAIN)
            }
        };
        let again = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = trust.changed() => if changed.is_err() { return },
            changed = tokens.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

impl OwnBundleParts {
    /// The bundle of this moment, under the number that the registry has for its content.
    async fn number(&self) -> Result<OwnBundle, StoreError> {
        let (roots, tokens) = (self.authority.bundle(), self.signing_keys.current());
        let unnumbered = bundle_document(&roots, tokens.bundle(), None, None);
        let digest = digest::digest(&digest::SHA256, unnumbered.as_bytes()).as_ref().to_vec();
        let sequence = loop {
            let stored = self.store.get(keys::OWN_BUNDLE).await?;
            let former: Option<Record> =
                stored.as_ref().map(|stored| document::from_stored(keys::OWN_BUNDLE, stored)).transpose()?;
            if let Some(former) = former.as_ref().filter(|former| former.digest == digest) {
                break former.sequence;
            }
            // No lower than the time in seconds, so that a registry that was restored from a backup does not number a new
            // content as an old one.
            let next = former.map_or(1, |former| former.sequence.saturating_add(1));
            let sequence = next.max(self.clock.now().0 / 1_000);
            let record = document::to_bytes(keys::OWN_BUNDLE, &Record { sequence, digest: digest.clone() })?;
            let commit = Commit::new()
                .unchanged(keys::OWN_BUNDLE, stored.as_ref())
                .put(keys::OWN_BUNDLE, record)
                .using_reserve();
            match self.store.commit(commit).await {
                Ok(_) => break sequence,
                // Another replica was first.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        };
        let document = bundle_document(&roots, tokens.bundle(), Some(sequence), Some(REFRESH_HINT));
        Ok(OwnBundle { document, sequence, jwt_keys: tokens.bundle().keys().count() })
    }
}
