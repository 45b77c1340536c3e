//! The tokens of a watch. One that cannot be had holds nothing else up: the former is kept, and asked for again.

use std::collections::BTreeMap;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_proto::workload::JwtsvidRequest;
use hauberk_tls::jwt::{JwtKeySet, unverified_key_id};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::super::client::{ApiError, Client, expiry, judge, marked, nothing};
use super::{LOOK, say};
use crate::clock::Clock;
use crate::random::Backoff;

/// Before what has failed is asked for again, the first time and at the most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MOST_PAUSE: Duration = Duration::from_secs(30);

/// What there is of them, by the names of their files.
pub(super) struct Tokens {
    held: BTreeMap<String, Token>,
    /// Whom they name.
    id: String,
    backoff: Backoff,
    /// Nothing is asked for before, for the last time was in vain.
    rest_until: Option<Instant>,
    /// What was said of that.
    said: String,
}

struct Token {
    text: Zeroizing<String>,
    renew_at: UnixMillis,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            held: BTreeMap::new(),
            id: String::new(),
            backoff: Backoff::new(FIRST_PAUSE, MOST_PAUSE),
            rest_until: None,
            said: String::new(),
        }
    }
}

impl Tokens {
    /// The token of this file.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.held.get(name).map(|token| token.text.as_str())
    }

    /// Those whose key is none of these are due.
    pub(super) fn replace_unverifiable(&mut self, keys: &JwtKeySet) {
        for token in self.held.values_mut() {
            let key_id = unverified_key_id(&token.text);
            if key_id.is_ok_and(|key_id| keys.key(&key_id).is_none()) {
                token.renew_at = UnixMillis(0);
            }
        }
    }

    /// Asks for each that is due: at half of what it had left. What cannot be had is said, and the former stays.
    pub(super) async fn renew(&mut self, wanted: &BTreeMap<String, String>, id: &str, client: &mut Client) {
        if self.id != id {
            // They name somebody else.
            self.held.clear();
            id.clone_into(&mut self.id);
        }
        if self.rest_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let mut failed = None;
        for (name, audience) in wanted {
            if self.is_due(name) {
                match ask(id, audience, client).await {
                    Ok(token) => drop(self.held.insert(name.clone(), token)),
                    Err(error) => failed = failed.or(Some(format!("--jwt: {name}: {error}"))),
                }
            }
        }
        match failed {
            Some(problem) => {
                self.rest_until = Some(Instant::now() + self.backoff.step());
                if self.said != problem {
                    say(&format!(
                        "{problem}; the former token stays, if there is one, and it is tried again"
                    ));
                    self.said = problem;
                }
            }
            None => {
                self.rest_until = None;
                self.backoff.reset();
                self.said.clear();
            }
        }
    }

    /// When to ask again, from now.
    pub(super) fn next_look(&self, wanted: &BTreeMap<String, String>) -> Duration {
        if let Some(until) = self.rest_until {
            return until.duration_since(Instant::now());
        }
        let now = Clock::system().now();
        let due = |name: &String| self.held.get(name).map(|token| token.renew_at.since(now));
        wanted.keys().filter_map(due).min().unwrap_or(LOOK)
    }

    fn is_due(&self, name: &str) -> bool {
        self.held.get(name).is_none_or(|token| Clock::system().now() >= token.renew_at)
    }
}

async fn ask(id: &str, audience: &str, client: &mut Client) -> Result<Token, ApiError> {
    let request = JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: id.to_owned() };
    let answer = client.fetch_jwtsvid(marked(request)).await.map_err(judge)?.into_inner();
    let text = Zeroizing::new(answer.svids.into_iter().next().ok_or_else(nothing)?.svid);
    let expires_at = expiry(client, &text, audience).await?;
    let now = Clock::system().now();
    // One that is over is asked for again, but not without end.
    let left = expires_at.since(now).max(Duration::from_secs(2));
    Ok(Token { text, renew_at: now.plus(left / 2) })
}

#[cfg(test)]
mod tests;
