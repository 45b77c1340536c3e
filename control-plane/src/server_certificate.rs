//! The control plane's own certificate: issued by itself, with names for clients that know no SPIFFE ids, renewed at
//! half life, and put before the next handshake without touching a listener.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{BACKDATED, Name, NameError, SpiffeId, UnixMillis, renewal_at};
use hauberk_tls::{KeyError, KeyPair, LiveIdentityError, SvidError};

use crate::app::ControlPlane;
use crate::audit::Actor;
use crate::authority::Authority;
use crate::config::{Settings, SubjectName};
use crate::issuance::{Holder, IssuanceError, Order};
use crate::random;
use crate::registry::Commit;

/// The life of the certificate.
const TTL: Duration = Duration::from_secs(86_400);

/// Before a renewal that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// The longest sleep before the clock of day is looked at again: a host that slept must not sleep on, and one whose clock was set back
/// may have a certificate that is not valid yet.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// The last part of our SPIFFE id. There is one replica as long as the registry is embedded.
const REPLICA: &str = "0";

/// A certificate that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerCertificateError {
    /// A name that was given at `init` is none any longer.
    #[error("the name {0:?} that `init` was given cannot stand in a certificate: set --san")]
    BadName(String),
    /// The replica's name is none.
    #[error(transparent)]
    Replica(#[from] NameError),
    /// No key could be made.
    #[error("no key could be made")]
    Key(#[from] KeyError),
    /// Nothing could be issued.
    #[error("the control plane cannot issue its own certificate")]
    Issuance(#[from] IssuanceError),
    /// The chain cannot be completed with its root.
    #[error("the certificate's chain cannot be made")]
    Chain(#[from] SvidError),
    /// The TLS library refuses it.
    #[error("the certificate cannot be used")]
    Publish(#[from] LiveIdentityError),
}

/// What the certificate says beside our SPIFFE id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// DNS names.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub ip_addresses: Vec<IpAddr>,
}

impl ServerNames {
    /// The names of the settings, else those of `init`, else those of this host.
    ///
    /// # Errors
    /// When a name that was given at `init` is none any longer.
    pub fn of(settings: &Settings, authority: &Authority) -> Result<Self, ServerCertificateError> {
        let mut names = Self::default();
        for name in subject_names(settings, authority)? {
            match name {
                SubjectName::Dns(name) => names.dns_names.push(name),
                SubjectName::Ip(address) => names.ip_addresses.push(address),
            }
        }
        Ok(names)
    }

    /// Whether a name, in lower case, is one of them, also where it is an address that is written as a name.
    pub fn hold(&self, name: &str) -> bool {
        self.dns_names.iter().any(|own| own == name)
            || name.parse().is_ok_and(|address: IpAddr| self.ip_addresses.contains(&address))
    }
}

/// The certificate in use.
#[derive(Debug)]
pub struct ServerCertificate {
    issued_at: UnixMillis,
    not_after: UnixMillis,
    /// Of the authorities that it is by.
    version: u64,
}

impl ServerCertificate {
    /// Issues a certificate and puts it in use.
    ///
    /// # Errors
    /// When it cannot be issued or used.
    pub async fn obtain(control: &ControlPlane) -> Result<Self, ServerCertificateError> {
        let ServerNames { dns_names, ip_addresses } = (*control.server_names).clone();
        let key = KeyPair::generate()?;
        let id = SpiffeId::control_plane(control.authority.trust_domain(), &Name::parse(REPLICA)?);
        let order = Order {
            id,
            holder: Holder::ControlPlane,
            public_key: key.public_key().into(),
            ttl: TTL,
            dns_names,
            ip_addresses,
            actor: Actor { name: "control-plane".to_owned(), source: "local".to_owned() },
            action: "certificate.issue",
        };
        // Without it nobody could be served, not even whoever comes to make room on a full disk.
        let (version, chain) = (control.authority.version(), control.authority.server_chain());
        let issued = control.issuer.issue(order, |_, _| Ok(Commit::new().using_reserve())).await?;
        // With the roots in the chain, an agent that knows only the fingerprint of one can verify it.
        let svid = chain.complete(&issued.svid)?;
        let not_after = svid.validity().not_after();
        control.identity.publish(svid, &key)?;
        tracing::info!(event = "server_certificate", %not_after, "the control plane's own certificate is in use");
        Ok(Self { issued_at: issued.issued_at, not_after, version })
    }

    /// Renews the certificate at half life, whenever the authorities change, and when the clock was set back before its beginning, over
    /// and over, until the control plane stops.
    pub async fn keep_current(mut self, control: Arc<ControlPlane>) {
        let mut trust = control.authority.trust();
        loop {
            let due = renewal_at(self.issued_at, self.not_after, random::fraction());
            let begins = self.issued_at.minus(BACKDATED);
            let has_changed = trust.wait_for(|trust| trust.version != self.version);
            tokio::select! {
                goes_on = sleep_while(&control, begins..due) => if !goes_on { return },
                changed = has_changed => if changed.is_err() { return },
            }
            match Self::obtain(&control).await {
                Ok(renewed) => self = renewed,
                Err(error) => {
                    tracing::error!(event = "server_certificate_failed", %error, "the renewal is tried again");
                    let now = control.clock.now();
                    if !sleep_while(&control, now..now.plus(TRY_AGAIN)).await {
                        return;
                    }
                }
            }
        }
    }
}

/// The name or address by which agents on other hosts reach a listener that is bound to `bound`; `None` where only
/// loopback is known.
///
/// # Errors
/// When a name that was given at `init` is none any longer.
pub fn host_from_elsewhere(
    control: &ControlPlane,
    bound: IpAddr,
) -> Result<Option<SubjectName>, ServerCertificateError> {
    Ok(from_elsewhere(bound, given_names(&control.settings, &control.authority)?, own_name()))
}

/// What was told comes first. Where nothing was, the address that is bound is certain, and the host's own name the
/// best guess.
fn from_elsewhere(bound: IpAddr, given: Vec<SubjectName>, own: Option<SubjectName>) -> Option<SubjectName> {
    if bound.is_loopback() {
        return None;
    }
    let bound = Some(bound).filter(|address| !address.is_unspecified()).map(SubjectName::Ip);
    given.into_iter().chain(bound).chain(own).find(|name| !is_loopback(name))
}

fn is_loopback(name: &SubjectName) -> bool {
    match name {
        SubjectName::Dns(name) => name == "localhost" || name.ends_with(".localhost"),
        SubjectName::Ip(address) => address.is_loopback(),
    }
}

/// The names of the settings, else those of `init`, else those of this host.
fn subject_names(
    settings: &Settings,
    authority: &Authority,
) -> Result<Vec<SubjectName>, ServerCertificateError> {
    let given = given_names(settings, authority)?;
    if !given.is_empty() {
        return Ok(given);
    }
    let mut names: Vec<_> =
        ["localhost", "127.0.0.1", "::1"].iter().filter_map(|name| SubjectName::parse(name).ok()).collect();
    names.extend(own_name());
    names.sort();
    names.dedup();
    Ok(names)
}

/// The names of the settings, else those of `init`.
fn given_names(
    settings: &Settings,
    authority: &Authority,
) -> Result<Vec<SubjectName>, ServerCertificateError> {
    if !settings.sans.is_empty() {
        return Ok(settings.sans.clone());
    }
    let parse =
        |name: &String| SubjectName::parse(name).map_err(|_| ServerCertificateError::BadName(name.clone()));
    authority.sans().iter().map(parse).collect()
}

/// This host's. A host whose name is no DNS name does without.
fn own_name() -> Option<SubjectName> {
    rustix::system::uname().nodename().to_str().ok().and_then(|name| SubjectName::parse(name).ok())
}

/// Sleeps while the clock of day shows an instant of these; `false` when the control plane stops instead.
async fn sleep_while(control: &ControlPlane, while_in: Range<UnixMillis>) -> bool {
    loop {
        let now = control.clock.now();
        if !while_in.contains(&now) {
            return true;
        }
        tokio::select! {
            () = control.stop.cancelled() => return false,
            () = tokio::time::sleep(while_in.end.since(now).min(LONGEST_SLEEP)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_elsewhere_are_told_what_they_can_reach() {
        let everywhere: IpAddr = "0.0.0.0".parse().unwrap();
        let names = |names: &[&str]| -> Vec<SubjectName> {
            names.iter().map(|name| SubjectName::parse(name).unwrap()).collect()
        };
        let told = |bound: IpAddr, given: &[&str], own: &str| {
            let own = names(&[own]).into_iter().next();
            from_elsewhere(bound, names(given), own).map(|name| name.to_string())
        };
        let given = ["localhost", "127.0.0.1", "cp.shop.example", "10.0.0.7"];
        assert_eq!(told(everywhere, &given, "host-1").as_deref(), Some("cp.shop.example"));
        assert_eq!(told(everywhere, &["::1"], "host-1").as_deref(), Some("host-1"));
        assert_eq!(told(everywhere, &[], "localhost"), None);
        let one: IpAddr = "10.0.0.9".parse().unwrap();
        assert_eq!(told(one, &given, "host-1").as_deref(), Some("cp.shop.example"));
        assert_eq!(told(one, &[], "host-1").as_deref(), Some("10.0.0.9"));
        // Whatever its names: nobody elsewhere reaches it.
        assert_eq!(told("127.0.0.1".parse().unwrap(), &given, "host-1"), None);
    }

    /// As one that was obtained while the clock was 13 hours ahead, and is valid for nobody once it is right.
    #[tokio::test]
    async fn a_certificate_from_the_future_is_replaced_once_the_clock_is_set_back() {
        let scratch = crate::testing::scratch().await;
        let (control, right) = (Arc::clone(&scratch.control), scratch.clock.now());
        scratch.clock.set(right.plus(Duration::from_secs(13 * 3_600)));
        let obtained = ServerCertificate::obtain(&control).await.unwrap();
        let begins = |state: &hauberk_tls::LiveState| state.svid().unwrap().validity().not_before();
        let mut current = control.identity.subscribe();
        assert!(begins(&current.borrow_and_update()) > right);
        scratch.clock.set(right);
        let kept = control.tasks.spawn(obtained.keep_current(Arc::clone(&control)));
        current.wait_for(|state| begins(state) <= right).await.unwrap();
        control.stop.cancel();
        kept.await.unwrap();
    }
}
