//! Keeps the views up with the resources.

use std::sync::Arc;
use std::time::Duration;

use hauberk_tls::signing::ViewSigner;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::compilation::Compilation;
use super::draft::{Draft, Views};
use super::former::FormerViews;
use super::view_records::ViewRecords;
use super::workloads::{self, Workloads};
use crate::authority::Authority;
use crate::registry::{Store, StoreError};
use crate::resources::{Catalog, Catalogs};

/// Starts the task that compiles each revision until `stop`, where tokens live for `token_life` unless an enrollment says otherwise. The
/// first compilation is done when this returns.
///
/// # Errors
/// When the registry cannot be read.
pub async fn start(
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    catalogs: &Catalogs,
    token_life: Duration,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> Result<watch::Receiver<Arc<Compilation>>, StoreError> {
    let mut catalogs = catalogs.subscribe();
    let mut signers = authority.view_signer();
    let records = ViewRecords::load(store).await?;
    let (views, former, workloads) = (Arc::default(), Arc::default(), Workloads::default());
    let mut compiler = Compiler { authority, records, token_life, views, former, workloads };
    let first = Arc::clone(&catalogs.borrow_and_update());
    let signer = Arc::clone(&signers.borrow_and_update());
    let compilation = compiler.compile(first, signer).await.ok_or(StoreError::Closed)?;
    let (sender, receiver) = watch::channel(Arc::new(compilation));
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = catalogs.changed() => if changed.is_err() { return },
                changed = signers.changed() => if changed.is_err() { return },
            }
            let latest = Arc::clone(&catalogs.borrow_and_update());
            let signer = Arc::clone(&signers.borrow_and_update());
            if let Some(compilation) = compiler.compile(latest, signer).await {
                sender.send_replace(Arc::new(compilation));
            }
        }
    });
    Ok(receiver)
}

struct Compiler {
    authority: Arc<Authority>,
    records: ViewRecords,
    token_life: Duration,
    views: Arc<Views>,
    former: Arc<FormerViews>,
    workloads: Workloads,
}

impl Compiler {
    /// The views at the catalog's revision; `None` where the thread that made them did not finish.
    async fn compile(&mut self, catalog: Arc<Catalog>, signer: Arc<ViewSigner>) -> Option<Compilation> {
        let (views, authority) = (Arc::clone(&self.views), Arc::clone(&self.authority));
        let revision = catalog.revision();
        let trust_domain = authority.trust_domain();
        self.workloads = workloads::of(&catalog, trust_domain, self.token_life, &self.workloads);
        let draft = off_the_reactor(move || Draft::new(&views, &catalog, authority.trust_domain())).await?;
        let changed = draft.changed.iter().map(|(key, content)| (key.clone(), content.digest()));
        // Before anybody sees them, so that no two replicas number one content differently.
        let numbers = self.records.number(changed.collect(), &draft.removed, revision).await;
        let (views, epoch) = (Arc::clone(&self.views), self.authority.epoch());
        let former = Arc::clone(&self.former);
        let made = move || {
            let next = views.with(draft, &numbers, (epoch, &signer));
            former.keep(views.replaced_by(&next));
            next
        };
        let views = off_the_reactor(made).await?;
        self.views = Arc::new(views);
        let trust_domain = self.authority.trust_domain();
        let compilation = self.views.publish(trust_domain, epoch, revision);
        let (workloads, former) = (self.workloads.clone(), Arc::clone(&self.former));
        Some(Compilation { workloads, former, ..compilation })
    }
}

/// Runs what may take its time on a thread of its own.
async fn off_the_reactor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.inspect_err(|error| {
        tracing::error!(event = "view_compile_failed", %error, "the views stay as they were");
    })
    .ok()
}

#[cfg(test)]
mod tests;
