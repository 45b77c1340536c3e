//! What others publish: bundles of trust domains, keys of issuers.

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::Finding;
use hauberk_tls::jwt::{JwtBundle, JwtKey};

use super::{error, warning};
use crate::federation::{Failing, Followed, FollowedIssuer, Hindrance};

/// A trust domain whose members are not known, or soon may not be.
pub(super) fn federation(followed: &Followed, now: UnixMillis) -> Option<Finding> {
    let Followed { key, bundle, failing, passed_over, reused, .. } = followed;
    let trust_domain = &followed.trust_domain;
    let roots = bundle.as_ref().map(|bundle| bundle.x509().roots()).unwrap_or_default();
    let is_fetched = followed.endpoint.is_some();
    let is_known = roots.iter().any(|root| root.validity().contains(now));
    let fix = fix_of_bundle(followed, is_known);
    let failing = failing.as_ref().map(|Failing { problem, since, .. }| {
        format!("its bundle cannot be fetched since {since}: {problem}")
    });
    if !is_known {
        let what = match bundle {
            None => "there is no bundle of it".to_owned(),
            // Of what is passed over nobody says whether it was a root.
            Some(_) if roots.is_empty() && !passed_over.is_empty() => {
                let why = if is_fetched {
                    "it has taken all back, or they are among the keys that are of no use: "
                } else {
                    ""
                };
                format!("its bundle has no root that counts: {why}{}", passed_over.join("; "))
            }
            Some(_) if roots.is_empty() && is_fetched => {
                "its bundle has no root: it has taken all back".to_owned()
            }
            Some(_) if roots.is_empty() => "its bundle has no root".to_owned(),
            Some(_) => "every root of its bundle has expired".to_owned(),
        };
        let failing = failing.map(|failing| format!("; {failing}")).unwrap_or_default();
        return Some(error(format!("{key}: nobody of {trust_domain} is let in: {what}{failing}"), fix));
    }
    if let Some(failing) = failing {
        return Some(warning(format!("{key}: {failing}; the former one stays in force"), fix));
    }
    if !passed_over.is_empty() {
        let then = if is_fetched { "" } else { "; then apply the resource with its present bundle" };
        return Some(warning(
            format!("{key}: not all keys of its bundle count: {}", passed_over.join("; ")),
            format!("have its publisher replace them: whom these vouch for is refused{then}"),
        ));
    }
    let number = (*reused)?;
    Some(warning(
        format!("{key}: there were two bundles of number {number}; the latter one is in force"),
        "have its publisher raise `spiffe_sequence` with each change: other followers may keep the former keys",
    ))
}

/// What to do where a bundle is of no use, or not fetched. `is_known`: it has a root that is valid.
fn fix_of_bundle(followed: &Followed, is_known: bool) -> String {
    let Followed { key, trust_domain, bundle, failing, fetched_at, .. } = followed;
    let anew = "apply the resource with its present bundle";
    if followed.endpoint.is_none() {
        return format!("{anew}, or with the endpoint that serves it");
    }
    let refresh = format!("`hauberk bundle refresh {trust_domain} --mesh {}`", key.mesh);
    let hindrance = failing.as_ref().map(|failing| failing.hindrance);
    // Nobody who answers could be believed.
    let is_locked_out = followed.vouches_for_itself && bundle.is_some() && !is_known;
    match hindrance {
        None | Some(Hindrance::Other) if is_locked_out => {
            format!("{anew}: by its roots it is known who answers at its endpoint, and none here is valid")
        }
        // It was asked, and that is what it publishes.
        None if bundle.is_some() && fetched_at.is_some() => {
            format!(
                "have its publisher serve roots that are valid, then {refresh}; if it has ended, delete the resource"
            )
        }
        _ => {
            let fixes = Fixes {
                unanswered: "see that its endpoint answers",
                bad_answer: "have its publisher serve its present bundle there",
            };
            fixes.of(hindrance, &format!("{refresh}; or {anew}"))
        }
    }
}

/// What to do about who is asked.
struct Fixes {
    unanswered: &'static str,
    bad_answer: &'static str,
}

impl Fixes {
    /// What to do where something is not fetched. The text of the problem decides nothing, for whoever was asked may
    /// have written part of it.
    fn of(&self, hindrance: Option<Hindrance>, then: &str) -> String {
        let Self { unanswered, bad_answer } = self;
        match hindrance {
            Some(Hindrance::Inside) => {
                "if it is meant to be there, apply the resource with `allowPrivateAddresses: true`".to_owned()
            }
            Some(Hindrance::NoWebRoot) => format!(
                "if an authority of your own signed its certificate, name it in the control plane's setting `web-roots`, then {then}"
            ),
            Some(Hindrance::Answer) => format!("{bad_answer}, then {then}"),
            Some(Hindrance::Older) => format!(
                "{bad_answer}, with a number (`spiffe_sequence`) above each that it has had, then {then}"
            ),
            Some(Hindrance::Voucher) => {
                format!("see to the trust domain that its endpoint is one of, and to its bundle, then {then}")
            }
            Some(Hindrance::Agent) => {
                "update that agent, or stop it: the bundle is asked for again by itself".to_owned()
            }
            Some(Hindrance::Ours) => {
                "mend that at the control plane, whose log says more: it is asked for again by itself"
                    .to_owned()
            }
            Some(Hindrance::Passing) => "wait: it is asked for again by itself".to_owned(),
            Some(Hindrance::Other) | None => format!("{unanswered}, then {then}"),
        }
    }
}

/// An issuer whose users are not known, or soon may not be.
pub(super) fn issuer(followed: &FollowedIssuer) -> Option<Finding> {
    let FollowedIssuer { key, keys, is_fetched, passed_over, failing, .. } = followed;
    let refresh = format!("`hauberk bundle refresh --issuer {} --mesh {}`", key.name, key.mesh);
    let then = format!("{refresh}; or write its keys into the resource");
    let fixes = Fixes {
        unanswered: "see that it answers where it is asked",
        bad_answer: "see that its keys are where they are asked for, or have the issuer publish them there",
    };
    let fix = fixes.of(failing.as_ref().map(|failing| failing.hindrance), &then);
    let failing = failing
        .as_ref()
        .map(|Failing { problem, since, .. }| format!("its keys cannot be fetched since {since}: {problem}"));
    if *keys == 0 && *is_fetched {
        // Whatever it publishes by now, it is not fetched.
        let fix = match failing {
            Some(_) => fix,
            None => format!(
                "have the issuer publish its keys, then {refresh}; if it has ended, delete the resource"
            ),
        };
        let why: Vec<_> = passed_over.iter().cloned().chain(failing).collect();
        let why = if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) };
        return Some(error(
            format!("{key}: all its users are denied: it publishes no key that can verify tokens{why}"),
            fix,
        ));
    }
    if *keys == 0 {
        let failing = failing.map(|failing| format!("; {failing}")).unwrap_or_default();
        return Some(error(format!("{key}: its tokens are refused: no key of it is known{failing}"), fix));
    }
    if let Some(failing) = failing {
        return Some(warning(format!("{key}: {failing}; the former ones stay in force"), fix));
    }
    let fix = "have the issuer publish keys that are of use; tokens that these sign are refused";
    (!passed_over.is_empty())
        .then(|| warning(format!("{key}: not all of its keys count: {}", passed_over.join("; ")), fix))
}

/// An issuer that goes on believing a key of ours, whatever becomes of that here.
pub(super) fn lists_ours(followed: &FollowedIssuer, own: &JwtBundle) -> Option<Finding> {
    let FollowedIssuer { key, listed, .. } = followed;
    let (listed, has_our_name) = listed.as_ref()?;
    let is_ours = |listed: &JwtKey| own.keys().any(|own| own.fingerprint() == listed.fingerprint());
    let ours = listed.keys().find(|listed| is_ours(listed));
    let what = match ours {
        Some(ours) => format!("its `jwks` lists the key {} of this control plane", ours.id()),
        None if *has_our_name => "its `jwks` lists keys for this control plane's own tokens".to_owned(),
        None => return None,
    };
    Some(warning(
        format!("{key}: {what}: it is believed there whatever becomes of it, also once it is revoked"),
        "leave out `jwks`, with what --oidc-issuer says as `issuer`: its keys are then those that sign here, at each moment",
    ))
}
