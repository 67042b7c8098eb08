//! The scan of the whole table, for the statement.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{DynamoDb, KEY, failed, key_of, readable};
use crate::ports::events_table::ScannedPage;
use crate::ports::service::{Service, ServiceError};

impl DynamoDb {
    /// Reads a part of the table. The read is eventually consistent, for half the price.
    pub(super) async fn scan_page(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ScannedPage, ServiceError> {
        let start = after
            .map(|after| HashMap::from([(KEY.to_owned(), AttributeValue::S(after.to_owned()))]));
        let request = self
            .client
            .scan()
            .table_name(&self.table)
            .set_exclusive_start_key(start)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        let output = request.send().await.map_err(failed(Service::DynamoDb))?;
        let no_key = || Service::DynamoDb.unreadable("an item of a scan has no key");
        let next = output.last_evaluated_key.as_ref();
        let next = next.map(|key| key_of(key).map(str::to_owned).ok_or_else(no_key));
        let mut page = ScannedPage {
            next: next.transpose()?,
            ..ScannedPage::default()
        };
        for item in output.items.unwrap_or_default() {
            let key = key_of(&item).ok_or_else(no_key)?.to_owned();
            // `#` is in no event id: the item is a lease, a kept body, a count, …
            if key.contains('#') {
                continue;
            }
            match readable(item) {
                Some(record) => page.records.push(record),
                None => page.unreadable.push(key),
            }
        }
        Ok(page)
    }
}
