//! The tokens of a watch. One that cannot be had holds nothing else up: the former is kept, and asked for again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hauberk_identity::UnixMillis;
use hauberk_proto::workload::JwtsvidRequest;
use hauberk_tls::jwt::{JwtKeySet, unverified_key_id};
use tokio::time::{Instant, timeout};
use tonic::Status;
use zeroize::Zeroizing;

use super::super::client::{ApiError, Client, expiry, judge, marked, nothing};
use super::{LOOK, say};
use crate::clock::Clock;
use crate::random::Backoff;

/// Before what has failed is asked for again, the first time and at the most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MOST_PAUSE: Duration = Duration::from_secs(30);

/// How long an agent may take to answer with one. It asks its control plane for no longer than this.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many are asked for at once. An agent answers 32 such calls of one connection.
const AT_ONCE: usize = 8;

/// What there is of them, by the names of their files.
#[derive(Default)]
pub(super) struct Tokens {
    held: BTreeMap<String, Token>,
    /// Whom they name.
    id: String,
    /// Those that were asked for in vain the last time: each waits for itself.
    failing: BTreeMap<String, Failing>,
    /// Those that are being asked for. Nothing else waits for an answer.
    running: FuturesUnordered<BoxFuture<'static, Asked>>,
    /// Their names, and whether the keys have changed since.
    asked: BTreeMap<String, bool>,
}

/// What came of asking for the token of a file.
pub(super) type Asked = (String, Result<Token, ApiError>);

struct Failing {
    backoff: Backoff,
    /// It is not asked for before.
    rest_until: Instant,
    /// What was said of it.
    said: String,
}

pub(super) struct Token {
    text: Zeroizing<String>,
    renew_at: UnixMillis,
}

impl Tokens {
    /// The token of this file.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.held.get(name).map(|token| token.text.as_str())
    }

    /// Those whose key is none of these are due.
    pub(super) fn replace_unverifiable(&mut self, keys: &JwtKeySet) {
        for (name, token) in &mut self.held {
            let key_id = unverified_key_id(&token.text);
            if key_id.is_ok_and(|key_id| keys.key(&key_id).is_none()) {
                token.renew_at = UnixMillis(0);
                if let Some(failing) = self.failing.get_mut(name) {
                    failing.rest_until = Instant::now();
                }
            }
        }
    }

    /// What is being asked for may be signed by a key that is none any longer.
    pub(super) fn keys_have_changed(&mut self) {
        self.asked.values_mut().for_each(|have_changed| *have_changed = true);
    }

    /// Waits for no answer any longer: whoever was asked is gone.
    pub(super) fn give_up(&mut self) {
        self.running.clear();
        self.asked.clear();
    }

    /// Asks for each that is due, at half of what it had left, as far as there is room.
    pub(super) fn ask_due(&mut self, wanted: &BTreeMap<String, String>, id: &str, client: &Client) {
        if self.id != id {
            // They name somebody else.
            self.held.clear();
            self.failing.clear();
            self.give_up();
            id.clone_into(&mut self.id);
        }
        for (name, audience) in wanted {
            if self.has_room() && self.is_due(name) {
                let asked = ask(id.to_owned(), audience.clone(), client.clone());
                self.begin(name.clone(), asked);
            }
        }
    }

    fn begin(&mut self, name: String, asked: impl Future<Output = Result<Token, ApiError>> + Send + 'static) {
        self.asked.insert(name.clone(), false);
        let late = || ApiError::Answer(Status::deadline_exceeded("the agent takes too long"));
        let asked = async move { (name, timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()))) };
        self.running.push(asked.boxed());
    }

    /// The next answer; none where nothing is being asked for. Safe to drop while waiting.
    pub(super) async fn next(&mut self) -> Option<Asked> {
        self.running.next().await
    }

    /// Takes an answer. What cannot be had is said, and the former stays. Whether the keys have changed since it was
    /// asked for.
    pub(super) fn take(&mut self, (name, result): Asked) -> bool {
        let have_keys_changed = self.asked.remove(&name).unwrap_or(false);
        match result {
            Ok(token) => {
                self.failing.remove(&name);
                self.held.insert(name, token);
            }
            Err(error) => self.fails(&name, &error.to_string()),
        }
        have_keys_changed
    }

    fn has_room(&self) -> bool {
        self.running.len() < AT_ONCE
    }

    fn fails(&mut self, name: &str, problem: &str) {
        let failing = self.failing.entry(name.to_owned()).or_insert_with(|| Failing {
            backoff: Backoff::new(FIRST_PAUSE, MOST_PAUSE),
            rest_until: Instant::now(),
            said: String::new(),
        });
        failing.rest_until = Instant::now() + failing.backoff.step();
        if failing.said != problem {
            say(&format!(
                "--jwt: {name}: {problem}; the former token stays, if there is one, and it is tried again"
            ));
            problem.clone_into(&mut failing.said);
        }
    }

    /// When to ask again, from now, unless an answer comes before.
    pub(super) fn next_look(&self, wanted: &BTreeMap<String, String>) -> Duration {
        if !self.has_room() {
            return LOOK;
        }
        let (now, instant) = (Clock::system().now(), Instant::now());
        let due = |name: &String| match self.failing.get(name) {
            Some(failing) => Some(failing.rest_until.duration_since(instant)),
            None => self.held.get(name).map(|token| token.renew_at.since(now)),
        };
        wanted.keys().filter(|name| !self.asked.contains_key(*name)).filter_map(due).min().unwrap_or(LOOK)
    }

    fn is_due(&self, name: &str) -> bool {
        if self.asked.contains_key(name) {
            return false;
        }
        match self.failing.get(name) {
            Some(failing) => Instant::now() >= failing.rest_until,
            None => self.held.get(name).is_none_or(|token| Clock::system().now() >= token.renew_at),
        }
    }
}

async fn ask(id: String, audience: String, mut client: Client) -> Result<Token, ApiError> {
    let request = JwtsvidRequest { audience: vec![audience.clone()], spiffe_id: id };
    let answer = client.fetch_jwtsvid(marked(request)).await.map_err(judge)?.into_inner();
    let text = Zeroizing::new(answer.svids.into_iter().next().ok_or_else(nothing)?.svid);
    let expires_at = expiry(&mut client, &text, &audience).await?;
    let now = Clock::system().now();
    // One that is over is asked for again, but not without end.
    let left = expires_at.since(now).max(Duration::from_secs(2));
    Ok(Token { text, renew_at: now.plus(left / 2) })
}

#[cfg(test)]
mod tests;
