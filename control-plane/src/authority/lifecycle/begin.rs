//! An authority that signs, before anything is served: nobody could be, where the one of before has ended meanwhile, or begins only
//! in the future.

use std::time::Duration;

use super::{Authorities, LifecycleError};
use crate::audit::Actor;
use crate::authority::book::{Book, Entry, Kind};

impl Authorities {
    /// Puts another in the place of one that is not valid now. That this fails stops nothing yet.
    pub async fn begin(&self, actor: &Actor) {
        if let Err(error) = self.have_one_that_signs(actor).await {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(event = "authority_step_failed", %error, cause, "no authority is valid now, and none can take its place");
        }
    }

    async fn have_one_that_signs(&self, actor: &Actor) -> Result<(), LifecycleError> {
        let is_valid = || self.parts.authority.issuing().validity().contains(self.parts.clock.now());
        while !is_valid() {
            if self.advance(actor).await? {
                continue;
            }
            let book = Book::read(&*self.parts.store).await?;
            let waiting = book.prepared(Kind::Issuing);
            // Nobody is there yet who would have to learn of it first.
            let now = self.parts.clock.now();
            let may_sign =
                |waiting: &&Entry| waiting.record.goes_on && waiting.certificate.validity().contains(now);
            return match waiting.filter(may_sign) {
                Some(waiting) => self.activate(&waiting.serial, actor).await,
                None => Ok(()),
            };
        }
        Ok(())
    }

    /// By how much the clock was set ahead, while it is not believed for that.
    pub fn clock_is_ahead(&self) -> Option<Duration> {
        self.parts.clock.ahead()
    }
}
