//! The admin's certificate: parsed, renewed past half of its life, exchanged for a login token.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_proto::admin::v1 as api;
use hauberk_proto::admin::v1::{admins_client::AdminsClient, identities_client::IdentitiesClient};
use hauberk_tls::{CertificateDer, CertificateRequest, KeyPair, LiveIdentity, Svid, TrustBundle};
use tonic::transport::Channel;

use super::file::{Context, ContextError, ContextStore};
use crate::output;
use crate::times::short;

/// How long a renewal may hold up the command that the user wanted.
const PATIENCE: Duration = Duration::from_secs(5);

/// A context's credential, parsed.
#[derive(Debug)]
pub(crate) struct Credential {
    pub(crate) svid: Svid,
    pub(crate) identity: LiveIdentity,
}

/// What became of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// It was by an authority that signs no longer, and there is another now.
    ByNewAuthority,
    /// The one that there was is as good as before.
    Other,
}

impl Credential {
    /// Parses what the context holds and checks that it has not expired.
    ///
    /// # Errors
    /// It has, or is damaged.
    pub(crate) fn of(name: &str, context: &Context, now: UnixMillis) -> Result<Self, ContextError> {
        let unusable = |reason: String| ContextError::Unusable { context: name.to_owned(), reason };
        let trust_domain =
            TrustDomain::parse(&context.trust_domain).map_err(|error| unusable(error.to_string()))?;
        let bundle = TrustBundle::from_pem(trust_domain, &context.bundle_pem)
            .map_err(|error| unusable(error.to_string()))?;
        let svid = Svid::from_pem(&context.certificate_pem).map_err(|error| unusable(error.to_string()))?;
        let key = KeyPair::from_pkcs8_pem(&context.key_pem).map_err(|error| unusable(error.to_string()))?;
        let not_after = svid.validity().not_after();
        if not_after < now {
            let ago = short(now.since(not_after));
            return Err(ContextError::Expired {
                context: name.to_owned(),
                admin: context.admin.clone(),
                ago,
            });
        }
        let identity = LiveIdentity::new(bundle);
        identity.publish(svid.clone(), &key).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { svid, identity })
    }

    /// Whether more than half of its life is over.
    fn is_due(&self, now: UnixMillis) -> bool {
        let validity = self.svid.validity();
        let life = validity.not_after().since(validity.not_before());
        now.since(validity.not_before()) > life / 2
    }
}

/// Takes over what is to be trusted: a root that follows another is learnt while the one before is still good, by every
/// command. Whether the credential's own authority signs no longer.
async fn learn_trust(store: &ContextStore, name: &str, credential: &Credential, channel: Channel) -> bool {
    let mut client = IdentitiesClient::new(channel);
    let asked = client.fetch_bundle(api::FetchBundleRequest {});
    // What is wrong with this admin or control plane, the command itself will be told.
    let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await else { return false };
    let answer = answer.into_inner();
    let known = Arc::clone(credential.identity.current().bundle());
    let bundle = TrustBundle::from_pem(known.trust_domain().clone(), &answer.pem);
    if let Ok(bundle) = bundle
        && !bundle.roots().is_empty()
        && bundle != *known
    {
        let kept = store.update(|contexts| {
            if let Some(context) = contexts.contexts.get_mut(name) {
                context.bundle_pem = bundle.to_pem();
            }
        });
        if let Err(error) = kept {
            output::note(format_args!("warning: the new trust bundle could not be kept ({error})"));
        }
    }
    let issuer = credential.svid.issuer_serial().map(|serial| serial.to_string());
    issuer.is_some_and(|issuer| answer.renew_issuers.contains(&issuer))
}

/// Renews the credential if it is past half of its life, or its authority signs no longer, and nobody else is doing so.
/// What goes wrong is said, and the command goes on with the credential that there is.
pub(crate) async fn renew_if_due(
    store: &ContextStore,
    name: &str,
    credential: &Credential,
    channel: Channel,
    now: UnixMillis,
) -> Renewal {
    let is_by_former = learn_trust(store, name, credential, channel.clone()).await;
    if !is_by_former && !credential.is_due(now) {
        return Renewal::Other;
    }
    let Ok(Some(_held_until_return)) = store.try_lock("renewal.lock") else { return Renewal::Other };
    match renew(store, name, channel).await {
        Ok(()) if is_by_former => Renewal::ByNewAuthority,
        Ok(()) => Renewal::Other,
        Err(reason) => {
            let left = short(credential.svid.validity().not_after().since(now));
            output::note(format_args!(
                "warning: the credential could not be renewed ({reason}); it is valid for {left}"
            ));
            Renewal::Other
        }
    }
}

async fn renew(store: &ContextStore, name: &str, channel: Channel) -> Result<(), String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let csr = CertificateRequest::create(&key).map_err(|error| error.to_string())?;
    let request = api::RenewCredentialRequest { csr };
    let answer = tokio::time::timeout(PATIENCE, AdminsClient::new(channel).renew_credential(request))
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    store
        .update(|contexts| match contexts.contexts.get_mut(name) {
            Some(context) => adopt(&answer, &key, &context.server).map(|renewed| *context = renewed),
            None => Err(format!("context `{name}` is gone")),
        })
        .map_err(|error| error.to_string())?
}

/// The context that a freshly issued credential makes.
///
/// # Errors
/// What the server sent is no credential for `key`.
pub(crate) fn adopt(credential: &api::Credential, key: &KeyPair, server: &str) -> Result<Context, String> {
    let owned = |der: &Vec<u8>| CertificateDer::from(der.clone());
    let svid = Svid::from_der(credential.chain.iter().map(owned)).map_err(|error| error.to_string())?;
    let trust_domain = TrustDomain::parse(&credential.trust_domain).map_err(|error| error.to_string())?;
    let bundle = TrustBundle::new(trust_domain, credential.roots.iter().map(owned))
        .map_err(|error| error.to_string())?;
    LiveIdentity::new(bundle.clone()).publish(svid.clone(), key).map_err(|error| error.to_string())?;
    Ok(Context {
        server: server.to_owned(),
        trust_domain: credential.trust_domain.clone(),
        bundle_pem: bundle.to_pem(),
        certificate_pem: svid.to_pem(),
        key_pem: key.to_pkcs8_pem().to_string(),
        admin: credential.name.clone(),
    })
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{Name, Serial, SpiffeId, Validity};
    use hauberk_tls::{IssuingAuthority, RootAuthority, SvidTemplate};

    use super::*;

    const NOON: UnixMillis = UnixMillis(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A context with a credential of two hours that begins at noon.
    fn issued() -> Context {
        let trust_domain = TrustDomain::parse("shop.local").unwrap();
        let year = Validity::new(NOON, NOON.plus(24 * 365 * HOUR)).unwrap();
        let root = RootAuthority::create(&trust_domain, year, Serial::from_random([1; 16])).unwrap();
        let issuing = IssuingAuthority::create(&root, year, Serial::from_random([2; 16])).unwrap();
        let key = KeyPair::generate().unwrap();
        let template = SvidTemplate {
            id: SpiffeId::admin(&trust_domain, &Name::parse("carol").unwrap()),
            public_key: key.public_key(),
            serial: Serial::from_random([3; 16]),
            validity: Validity::new(NOON, NOON.plus(2 * HOUR)).unwrap(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
        };
        let svid = issuing.sign(&template).unwrap();
        let answer = api::Credential {
            name: "carol".to_owned(),
            chain: svid.chain().iter().map(|der| der.to_vec()).collect(),
            roots: vec![root.certificate().to_vec()],
            trust_domain: "shop.local".to_owned(),
            ..Default::default()
        };
        assert!(
            adopt(&answer, &KeyPair::generate().unwrap(), "127.0.0.1:7444").is_err(),
            "another key was adopted"
        );
        adopt(&answer, &key, "127.0.0.1:7444").unwrap()
    }

    #[test]
    fn a_credential_is_due_past_half_of_its_life_and_useless_after_all_of_it() {
        let context = issued();
        let at = |now| Credential::of("shop", &context, now);
        assert!(!at(NOON.plus(HOUR / 2)).unwrap().is_due(NOON.plus(HOUR / 2)));
        assert!(at(NOON.plus(HOUR)).unwrap().is_due(NOON.plus(HOUR + HOUR / 4)));
        let expired = at(NOON.plus(3 * HOUR)).unwrap_err();
        assert_eq!(expired.to_string(), "the credential of context `shop` expired 1h ago");
        let [here, elsewhere] = &expired.help()[..] else { panic!("{:?}", expired.help()) };
        assert_eq!(here, "on the control plane's host: hauberk-control-plane admin issue carol");
        assert!(elsewhere.contains("hauberk admin create carol --role ROLE"), "{elsewhere}");
    }
}
