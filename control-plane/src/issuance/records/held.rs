//! What instances hold, without a look at what others do: serial numbers begin with the id of the instance that answers for the
//! certificate. Those of earlier releases do not; they lie among those of admins and of the control plane, which are few.

use std::collections::{BTreeMap, HashSet};

use hauberk_identity::{InstanceId, Serial, UnixMillis};

use super::{IssuedRecord, LOOKED_AT, Ledger, READ_AT_ONCE};
use crate::registry::{StoreError, document, keys};

/// What is on record of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Serial number and record, the latest first: its own, and those of workloads that it vouched for.
    pub certificates: Vec<(Serial, IssuedRecord)>,
    /// There are more that say by their serial number that they are its.
    pub has_more: bool,
    /// There are certificates that were not looked at whose serial numbers do not say whose they are.
    pub has_more_nameless: bool,
}

impl Ledger {
    /// What was issued to an instance and for workloads that it vouched for. At most 10,000 certificates are looked at that can be
    /// its by their serial numbers, and as many whose numbers do not say.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn certificates_of(&self, instance: InstanceId) -> Result<Held, StoreError> {
        let mut certificates = Vec::new();
        let is_its = |record: &IssuedRecord| record.holder.instance() == Some(instance);
        let mut take = |serial, record| {
            if is_its(&record) {
                certificates.push((serial, record));
            }
        };
        let has_more = self.each_under(&Serial::beginning_of(instance), LOOKED_AT, &mut take).await? == 0;
        let mut left = LOOKED_AT;
        for beginning in Serial::BEGINNINGS_OF_OTHERS {
            left = self.each_under(beginning, left, &mut take).await?;
        }
        certificates.sort_by_key(|(serial, record)| std::cmp::Reverse((record.issued_at, *serial)));
        Ok(Held { certificates, has_more, has_more_nameless: left == 0 })
    }

    /// The certificates of these instances, and of workloads that they vouched for, that have not expired at `now`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unexpired_of(
        &self,
        instances: impl IntoIterator<Item = InstanceId>,
        now: UnixMillis,
    ) -> Result<BTreeMap<Serial, IssuedRecord>, StoreError> {
        let instances: HashSet<_> = instances.into_iter().collect();
        let is_theirs = |record: &IssuedRecord| {
            now <= UnixMillis(record.not_after)
                && record.holder.instance().is_some_and(|instance| instances.contains(&instance))
        };
        let mut found = BTreeMap::new();
        if instances.is_empty() {
            return Ok(found);
        }
        let mut take = |serial, record| {
            if is_theirs(&record) {
                found.insert(serial, record);
            }
        };
        for instance in &instances {
            self.each_under(&Serial::beginning_of(*instance), usize::MAX, &mut take).await?;
        }
        for beginning in Serial::BEGINNINGS_OF_OTHERS {
            self.each_under(beginning, usize::MAX, &mut take).await?;
        }
        Ok(found)
    }

    /// The certificates that have not expired at `now`, whose serial numbers name no instance, and that are wanted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unexpired_nameless(
        &self,
        now: UnixMillis,
        wanted: impl Fn(&IssuedRecord) -> bool,
    ) -> Result<BTreeMap<Serial, IssuedRecord>, StoreError> {
        let mut found = BTreeMap::new();
        for beginning in Serial::BEGINNINGS_OF_OTHERS {
            let take = |serial, record: IssuedRecord| {
                if now <= UnixMillis(record.not_after) && wanted(&record) {
                    found.insert(serial, record);
                }
            };
            self.each_under(beginning, usize::MAX, take).await?;
        }
        Ok(found)
    }

    /// Hands on the certificates whose serial numbers begin so, at most so many. Gives how many more it might have been.
    async fn each_under(
        &self,
        beginning: &str,
        most: usize,
        mut take: impl FnMut(Serial, IssuedRecord),
    ) -> Result<usize, StoreError> {
        let prefix = format!("{}{beginning}", keys::ISSUED);
        let (mut left, mut after) = (most, None);
        while left > 0 {
            let page = self.store.list(&prefix, after.as_deref(), READ_AT_ONCE.min(left)).await?;
            left = left.saturating_sub(page.entries.len());
            for (key, stored) in &page.entries {
                let serial = key.strip_prefix(keys::ISSUED).and_then(|serial| serial.parse().ok());
                let damaged = || StoreError::Damaged { key: key.clone(), what: "it is no serial number" };
                take(serial.ok_or_else(damaged)?, document::from_stored(key, stored)?);
            }
            if !page.more {
                // All there are: as much is left as if there were room for one more.
                return Ok(left.max(1));
            }
            after = page.entries.last().map(|(key, _)| key.clone());
            // The store answers at once, so nothing else lets others go on.
            tokio::task::yield_now().await;
        }
        Ok(0)
    }
}
