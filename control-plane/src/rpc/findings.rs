//! What is not as it should be, each with what to do about it: a pure function of what is known.

mod detours;
mod followed;
mod idle;
mod lists;
mod stored;
mod tokens;

pub(super) use detours::ToldDetours;
pub(super) use idle::ToldIdle;

use std::collections::BTreeMap;
use std::time::Duration;

use hauberk_identity::{SpiffeId, UnixMillis, Validity};
use hauberk_proto::admin::v1::{Finding, Severity};
use hauberk_tls::jwt::JwtBundle;

use crate::authority::Need;
use crate::compile::{Compilation, HeavyPatterns};
use crate::enrollment::{JOINS_AT_ONCE, MOST_INSTANCES, TokenView};
use crate::federation::{Followed, FollowedIssuer};
use crate::instances::{Lag, Laggard, Report, Rollout, fix_of_absence};
use crate::registry::Condition;
use crate::resources::Catalog;
use crate::revocation::crl::Trouble;

/// How far a clock may be off before it is told.
const SKEW_TOLERATED_MS: u64 = 30_000;

/// How many live instances one join token may have made before it is told: as many as it lets in at once, which few nodes have
/// and a thief makes.
const MANY_BY_TOKEN: usize = JOINS_AT_ONCE as usize;

/// How far before certificates are refused for it: they are valid from so long before they are issued.
const SKEW_WORKS_MS: u64 = 300_000;

/// How many findings of a kind are told one by one.
const EACH_AT_MOST: usize = 50;

/// What to do about more instances than are told one by one.
const ALL_INSTANCES: &str = "`hauberk get instances` lists all";

const DAY: Duration = Duration::from_secs(86_400);

/// What to do where no denylist can be made of what is recorded.
pub(super) const FIX_OF_DENYLIST: &str =
    "nothing has to be restarted: it is tried every second; the control plane's log says what fails";

/// The certificates of the control plane.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) root: Option<Validity>,
    pub(super) issuing: Option<Validity>,
    pub(super) server: Option<Validity>,
}

/// All that is looked at.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) now: UnixMillis,
    pub(super) condition: &'a Condition,
    pub(super) cannot_sign: Option<&'a str>,
    pub(super) is_denylist_unreadable: bool,
    pub(super) clock_ahead: Option<Duration>,
    pub(super) certificates: &'a Certificates,
    pub(super) need: Option<&'a Need>,
    pub(super) lists: &'a Trouble,
    pub(super) compilation: &'a Compilation,
    pub(super) catalog: &'a Catalog,
    pub(super) heavy: &'a [HeavyPatterns],
    pub(super) detours: &'a ToldDetours,
    pub(super) idle: &'a ToldIdle,
    pub(super) rollout: &'a Rollout,
    pub(super) reports: &'a [Report],
    pub(super) followed: &'a [Followed],
    pub(super) issuers: &'a [FollowedIssuer],
    pub(super) own_keys: &'a JwtBundle,
    pub(super) tokens: &'a [TokenView],
}

/// What is not as it should be, errors first.
pub(super) fn collect(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let condition = match facts.condition {
        Condition::Writable => None,
        Condition::Full(reason) => {
            Some((reason, "make room on the disk: writes are taken again by themselves, without a restart"))
        }
        Condition::Broken(reason) => Some((reason, "repair the disk, then restart the control plane")),
    };
    if let Some((reason, fix)) = condition {
        findings.push(error(format!("the registry takes no writes: {reason}"), fix));
    }
    if let Some(reason) = facts.cannot_sign {
        let fix = "nothing has to be restarted: it is tried every second; whoever has a certificate goes on until it expires";
        findings.push(error(format!("no certificates can be signed: {reason}"), fix));
    }
    if facts.is_denylist_unreadable {
        let summary = "the denylist cannot be made anew: what was revoked or put in quarantine since it was last made is refused by \
                       nobody, and whoever was on it before still is";
        findings.push(error(summary.to_owned(), FIX_OF_DENYLIST));
    }
    findings.extend(facts.clock_ahead.map(|ahead| {
        let summary = format!(
            "the control plane's clock was set {} s ahead while it ran: until it is believed nothing is forgotten, and no authority \
             replaced or retired, by its age",
            ahead.as_secs()
        );
        let fix = "set the clock right, if it is wrong; if it is right, it is believed 25 hours after it was set, or an hour after the \
                   control plane is started again";
        error(summary, fix)
    }));
    findings.extend(certificates(facts.certificates, facts.need.is_some(), facts.now));
    findings.extend(facts.need.map(|Need { what, fix, is_urgent }| {
        if *is_urgent { error(what.clone(), fix) } else { warning(what.clone(), fix) }
    }));
    findings.extend(lists::of(facts.lists));
    findings.extend(facts.compilation.findings.iter().map(|finding| {
        error(
            format!("mesh {}: {}; the former view stays in force", finding.mesh, finding.summary),
            &finding.fix,
        )
    }));
    findings.extend(stored::stored(facts.catalog, facts.heavy, facts.idle));
    let laggards = facts.rollout.laggards.iter().map(laggard);
    findings.extend(each(laggards, "instances do not enforce the latest", ALL_INSTANCES));
    let live = || facts.reports.iter().filter(|report| facts.now <= report.certificate.not_after);
    let registered = live().filter_map(registration);
    findings.extend(each(registered, "instances have registered what cannot be called", ALL_INSTANCES));
    findings.extend(each(live().filter_map(skew), "instances have a wrong clock", ALL_INSTANCES));
    let late = live().filter_map(|report| renewal(report, facts.now));
    findings.extend(each(late, "instances do not renew", ALL_INSTANCES));
    findings.extend(crowds(live()));
    findings.extend(audit_listeners(facts.compilation));
    findings.extend(facts.detours.findings());
    findings.extend(facts.followed.iter().filter_map(|followed| followed::federation(followed, facts.now)));
    findings.extend(facts.issuers.iter().filter_map(followed::issuer));
    findings.extend(facts.issuers.iter().filter_map(|issuer| followed::lists_ours(issuer, facts.own_keys)));
    findings.extend(tokens::loose(facts.tokens, facts.now));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// `is_needed`: what is to be done about the authorities is told already.
fn certificates(certificates: &Certificates, is_needed: bool, now: UnixMillis) -> Vec<Finding> {
    let Certificates { server, .. } = certificates;
    let (root, issuing) =
        if is_needed { (&None, &None) } else { (&certificates.root, &certificates.issuing) };
    let expiring = [
        // Both are followed by others a week before their end, by themselves: whoever is later stands in the way.
        (
            "root",
            root,
            6 * DAY,
            "`hauberk authority rotate root --wait` names the instances that do not trust the next one yet",
        ),
        (
            "issuing authority's",
            issuing,
            6 * DAY,
            "its successor has not come by itself: see the log for authority_step_failed, then run `hauberk authority \
             rotate issuing`",
        ),
        (
            "control plane's own",
            server,
            DAY / 4,
            "the control plane renews it by itself: its log says why it has not",
        ),
    ];
    let near = expiring.into_iter().filter_map(|(which, validity, early, fix)| {
        let validity = (*validity)?;
        let left = validity.remaining(now);
        if left > early.min(validity.not_after().since(validity.not_before()) / 2) {
            return None;
        }
        let end = validity.not_after();
        Some(if left.is_zero() {
            error(format!("the {which} certificate expired at {end}"), fix)
        } else {
            warning(format!("the {which} certificate expires at {end}"), fix)
        })
    });
    near.collect()
}

fn laggard(laggard: &Laggard) -> Finding {
    let Laggard { instance, spiffe_id, lag, .. } = laggard;
    let summary = format!("instance {instance} of {spiffe_id}: {lag}");
    match lag {
        Lag::Refused(_)
        | Lag::Ahead { .. }
        | Lag::NotCompiled
        | Lag::NoDenylist
        | Lag::Obstructed { .. }
        | Lag::KnowsNoInstances { .. } => error(summary, fix_of(laggard)),
        Lag::NotConnected | Lag::NotAcknowledged | Lag::NotPushed | Lag::NotDismissed | Lag::NodeUnknown => {
            warning(summary, fix_of(laggard))
        }
    }
}

/// What to do about an instance that does not enforce a revision.
pub(super) fn fix_of(laggard: &Laggard) -> String {
    let fix = match &laggard.lag {
        Lag::Refused(refusal) if refusal.reason == "missing_feature" => {
            "update its agent, which denies every call until then; agents are updated before the control plane"
        }
        Lag::Refused(_) => "its log says more; it may need a newer agent",
        Lag::Ahead { .. } => {
            "the registry is older than what this agent has seen: put a later backup back, or stop the control plane and run \
             `hauberk-control-plane restored`"
        }
        Lag::KnowsNoInstances { .. } => "update its agent",
        Lag::NoDenylist => "another finding of `hauberk check` says why; the former denylist stays in force",
        Lag::NotCompiled => "another finding of `hauberk check` says why; the former view stays in force",
        Lag::Obstructed { fix, .. } => {
            return format!("{fix}; until then the former view stays in force, with its keys");
        }
        Lag::NotConnected => return fix_of_absence(laggard.instance, laggard.certificate_not_after),
        Lag::NotDismissed | Lag::NodeUnknown => {
            return format!(
                "make sure that its agent is stopped and `hauberk revoke instance {}`, or wait: until its certificate expires \
                 at {} it may go on with what it holds",
                laggard.instance, laggard.certificate_not_after
            );
        }
        Lag::NotAcknowledged | Lag::NotPushed => "look again in a moment; then see its log",
    };
    fix.to_owned()
}

fn registration(report: &Report) -> Option<Finding> {
    let reason = report.registration_refused.as_ref()?;
    let summary = format!("instance {} of {} gets no new traffic: {reason}", report.id, report.spiffe_id);
    Some(warning(summary, "give its agent an address that its callers can reach (--advertise-ip)"))
}

fn skew(report: &Report) -> Option<Finding> {
    let skew = report.hello.as_ref().filter(|_| report.connected_since.is_some())?.clock_skew_ms;
    if skew.unsigned_abs() <= SKEW_TOLERATED_MS {
        return None;
    }
    let (seconds, direction) = (skew.unsigned_abs() / 1_000, if skew < 0 { "behind" } else { "ahead" });
    let summary =
        format!("the clock of instance {} of {} is {seconds} s {direction}", report.id, report.spiffe_id);
    let fix = "let its host keep time by NTP: certificates are refused by clocks that are five minutes off";
    Some(if skew.unsigned_abs() < SKEW_WORKS_MS { warning(summary, fix) } else { error(summary, fix) })
}

/// Renewal is due at half life; at three quarters something is wrong.
fn renewal(report: &Report, now: UnixMillis) -> Option<Finding> {
    let (issued_at, end) = (report.certificate.issued_at?, report.certificate.not_after);
    let is_late =
        report.connected_since.is_some() && now > issued_at.plus(end.since(issued_at).mul_f64(0.75));
    let summary = || {
        format!(
            "instance {} of {} has not renewed its certificate, which expires at {end}",
            report.id, report.spiffe_id
        )
    };
    if is_late {
        Some(warning(summary(), "its log says why; at that instant it denies everything"))
    } else {
        None
    }
}

/// Join tokens that have made many instances: they are what somebody who has stolen one fills a node with.
fn crowds<'a>(live: impl Iterator<Item = &'a Report>) -> Vec<Finding> {
    let mut by_token = BTreeMap::<_, usize>::new();
    for report in live.filter(|report| report.denial.is_none()) {
        if let Some(token) = &report.token {
            *by_token.entry((token, &report.spiffe_id)).or_default() += 1;
        }
    }
    let findings = by_token.into_iter().filter(|(_, count)| *count >= MANY_BY_TOKEN).map(|((token, id), count)| {
        warning(
            format!("{count} live instances of {id} have joined by token {token}; a node has at most {MOST_INSTANCES}"),
            format!(
                "if you run as many, make tokens of their own for parts of them; if not, `hauberk describe instance ID` says \
                 from where one joined, and `hauberk revoke token {token}` deletes the token and revokes them all"
            ),
        )
    });
    let fix = "`hauberk token list` lists all that are still to be used; `hauberk describe instance ID` says by which token one joined";
    each(findings, "join tokens have made many instances", fix)
}

fn audit_listeners(compilation: &Compilation) -> Vec<Finding> {
    let mut listeners: Vec<(&SpiffeId, u16)> = compilation
        .nodes
        .iter()
        .flat_map(|(spiffe_id, view)| view.audit_ports.iter().map(move |port| (spiffe_id, *port)))
        .collect();
    listeners.sort_unstable();
    let fix =
        "permit what is needed, then take `authorization: AUDIT` off the listener, its node or its mesh";
    let findings = listeners.into_iter().map(|(spiffe_id, port)| {
        let summary =
            format!("port {port} of {spiffe_id} lets through what no policy permits (authorization: AUDIT)");
        warning(summary, fix)
    });
    each(findings, "listeners are in AUDIT", fix)
}

/// Tells findings of one kind one by one, up to a limit, and counts the `rest`, with what to do about it.
fn each(findings: impl Iterator<Item = Finding>, rest: &str, fix: &str) -> Vec<Finding> {
    let mut all: Vec<Finding> = findings.collect();
    if all.len() > EACH_AT_MOST {
        let more = all.len() - EACH_AT_MOST;
        all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        all.truncate(EACH_AT_MOST);
        all.push(warning(format!("{more} more {rest}"), fix));
    }
    all
}

fn error(summary: String, fix: impl Into<String>) -> Finding {
    Finding { severity: Severity::Error.into(), summary, fix: fix.into() }
}

fn warning(summary: String, fix: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning.into(), summary, fix: fix.into() }
}

#[cfg(test)]
mod tests;
