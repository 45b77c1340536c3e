//! One command's conversation with the control plane.

use hauberk_identity::{Name, TrustDomain};
use hauberk_proto::admin::v1 as api;
use hauberk_proto::admin::v1::{
    admins_client::AdminsClient, audit_client::AuditClient, authorities_client::AuthoritiesClient,
    federation_client::FederationClient, flows_client::FlowsClient, identities_client::IdentitiesClient,
    policies_client::PoliciesClient, record_client::RecordClient, resources_client::ResourcesClient,
    revocations_client::RevocationsClient, rollout_client::RolloutClient, system_client::SystemClient,
};
use hauberk_proto::mesh::v1::{Kind, Resource, ResourceRef};
use tonic::Code;
use tonic::transport::Channel;

use crate::arguments::Global;
use crate::client;
use crate::clock;
use crate::context::{Context, ContextStore, Credential, Renewal, renew_if_due};
use crate::error::CommandError;
use crate::kinds;
use crate::nearest::suggestion;

/// The largest answer that is read.
const MAX_ANSWER: usize = 32 << 20;

/// A connected context.
pub(crate) struct Session {
    pub(crate) context: Context,
    channel: Channel,
    /// What --mesh or HAUBERK_MESH says.
    mesh: Option<String>,
    /// What stands behind commands that are told.
    of_context: String,
}

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $client:ident;)*) => {
        $($(#[$doc])*
        pub(crate) fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
        })*
    };
}

impl Session {
    /// Connects to the chosen context's control plane, renewing the credential where that is due.
    ///
    /// # Errors
    /// There is no usable context, or no control plane.
    pub(crate) async fn open(global: &Global) -> Result<Self, CommandError> {
        let store = ContextStore::of_user()?;
        let (name, context) = store.select(global.context.as_deref())?;
        let now = clock::now();
        let credential = Credential::of(&name, &context, now)?;
        let channel = client::connect(&context.server, &credential).await?;
        let (mesh, of_context) = (global.mesh.clone(), global.of_context());
        if renew_if_due(&store, &name, &credential, channel.clone(), now).await == Renewal::ByNewAuthority {
            // What this connection has proved may be refused while the command is at work.
            let (name, context) = store.select(Some(&name))?;
            let channel = client::connect(&context.server, &Credential::of(&name, &context, now)?).await?;
            return Ok(Self { context, channel, mesh, of_context });
        }
        Ok(Self { context, channel, mesh, of_context })
    }

    clients! {
        /// Meshes, nodes, services, policies.
        resources: ResourcesClient;
        /// Who may do what.
        policies: PoliciesClient;
        /// What was decided how often.
        record: RecordClient;
        /// Tokens, instances, certificates.
        identities: IdentitiesClient;
        /// Who is refused.
        revocations: RevocationsClient;
        /// Who vouches for whom.
        authorities: AuthoritiesClient;
        /// Bundles of trust domains.
        federation: FederationClient;
        /// People.
        admins: AdminsClient;
        /// How far a change has come.
        rollout: RolloutClient;
        /// Decisions as they happen.
        flows: FlowsClient;
        /// Who did what.
        audit: AuditClient;
        /// The installation.
        system: SystemClient;
    }

    /// What stands behind a command that is told to the user, so that it means the same control plane.
    pub(crate) fn of_context(&self) -> &str {
        &self.of_context
    }

    /// The mesh that the user named, if any.
    pub(crate) fn named_mesh(&self) -> Option<&str> {
        self.mesh.as_deref()
    }

    /// The mesh that is meant: the named one, else the only one there is.
    ///
    /// # Errors
    /// None is named and there is none, or several.
    pub(crate) async fn mesh(&self) -> Result<String, CommandError> {
        self.mesh_if_any().await?.ok_or_else(|| {
            CommandError::advised(
                "there is no mesh yet",
                format!(
                    "make one: echo '{{kind: Mesh, name: shop}}' | hauberk apply -f -{}",
                    self.of_context
                ),
            )
        })
    }

    /// The same; `None` where none is named and there is none.
    ///
    /// # Errors
    /// None is named and there are several.
    pub(crate) async fn mesh_if_any(&self) -> Result<Option<String>, CommandError> {
        if let Some(mesh) = &self.mesh {
            return Ok(Some(mesh.clone()));
        }
        let meshes = self.list(Kind::Mesh, "").await?;
        let names: Vec<&str> = meshes.iter().map(|mesh| mesh.name.as_str()).collect();
        match names.as_slice() {
            [only] => Ok(Some((*only).to_owned())),
            [] => Ok(None),
            several => Err(CommandError::Usage(format!(
                "which mesh? There are {}: say --mesh NAME or set HAUBERK_MESH",
                several.join(", ")
            ))),
        }
    }

    /// Every resource of a kind, of one mesh or (empty) of all.
    ///
    /// # Errors
    /// What the control plane answers.
    pub(crate) async fn list(&self, kind: Kind, mesh: &str) -> Result<Vec<Resource>, CommandError> {
        let request = api::ListRequest { kind: kind.into(), mesh: mesh.to_owned(), ..Default::default() };
        self.list_all(request).await
    }

    /// Every resource that matches, page by page.
    ///
    /// # Errors
    /// What the control plane answers.
    pub(crate) async fn list_all(
        &self,
        mut request: api::ListRequest,
    ) -> Result<Vec<Resource>, CommandError> {
        let mut found = Vec::new();
        loop {
            let page = self.resources().list(request.clone()).await?.into_inner();
            found.extend(page.resources);
            if page.next_page_token.is_empty() {
                return Ok(found);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// One resource, if it is there.
    ///
    /// # Errors
    /// What the control plane answers, except that it is missing.
    pub(crate) async fn find(
        &self,
        kind: Kind,
        mesh: &str,
        name: &str,
    ) -> Result<Option<Resource>, CommandError> {
        let mesh = if kind == Kind::Mesh { String::new() } else { mesh.to_owned() };
        let reference = ResourceRef { kind: kind.into(), mesh, name: name.to_owned() };
        match self.resources().get(api::GetRequest { r#ref: Some(reference) }).await {
            Ok(answer) => Ok(answer.into_inner().resource),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// One resource that must be there.
    ///
    /// # Errors
    /// It is not; the nearest name is suggested.
    pub(crate) async fn get(&self, kind: Kind, mesh: &str, name: &str) -> Result<Resource, CommandError> {
        if let Some(found) = self.find(kind, mesh, name).await? {
            return Ok(found);
        }
        let others = self.list(kind, if kind == Kind::Mesh { "" } else { mesh }).await?;
        if others.is_empty() && kind != Kind::Mesh {
            self.check_mesh(mesh).await?;
        }
        let nearest = suggestion(name, others.iter().map(|other| other.name.as_str()));
        let of_mesh = if kind == Kind::Mesh { String::new() } else { format!(" in mesh {mesh}") };
        Err(CommandError::failed(format!("there is no {} `{name}`{of_mesh}{nearest}", kinds::said(kind))))
    }

    /// Fails where there is no such mesh; none (empty) is any. Whoever found nothing in a mesh asks: that there is
    /// nothing in a misspelt one would mislead.
    ///
    /// # Errors
    /// It is not there; the nearest name is suggested.
    pub(crate) async fn check_mesh(&self, mesh: &str) -> Result<(), CommandError> {
        if mesh.is_empty() || self.find(Kind::Mesh, "", mesh).await?.is_some() {
            return Ok(());
        }
        let meshes = self.list(Kind::Mesh, "").await?;
        let nearest = suggestion(mesh, meshes.iter().map(|known| known.name.as_str()));
        Err(CommandError::failed(format!("there is no mesh `{mesh}`{nearest}")))
    }

    /// The trust domain and a mesh's name, parsed.
    ///
    /// # Errors
    /// One of them is malformed.
    pub(crate) fn names(&self, mesh: &str) -> Result<(TrustDomain, Name), CommandError> {
        let trust_domain = TrustDomain::parse(&self.context.trust_domain)
            .map_err(|error| CommandError::failed(format!("the context's trust domain: {error}")))?;
        let mesh = Name::parse(mesh).map_err(|error| CommandError::Usage(format!("--mesh: {error}")))?;
        Ok((trust_domain, mesh))
    }
}
