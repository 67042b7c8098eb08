//! The scan of the whole table.

use super::*;

/// After the other tests, whose items it meets.
pub(super) async fn a_scan_meets_each_record_once(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let mut written = BTreeSet::new();
    for number in 0..25 {
        let record = pair
            .send_to_dead_letters(&format!("scanned-{number}"), at(number))
            .await?;
        assert!(table.keep_body(&record.event_id, b"{}", at(number)).await?);
        written.insert(record.event_id);
    }
    for limit in [1, 7, 1000] {
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let page = table.scan(after.as_deref(), limit).await?;
            assert!(page.records.len() <= limit, "in pages of {limit}");
            assert_eq!(page.unreadable, Vec::<String>::new());
            for record in page.records {
                let before = found.insert(record.event_id.clone(), record);
                assert_eq!(before, None, "twice, in pages of {limit}");
            }
            let Some(next) = page.next else { break };
            assert_ne!(after.as_ref(), Some(&next), "a scan that does not go on");
            after = Some(next);
        }
        for id in &written {
            assert_eq!(
                found.get(id),
                pair.get(id).await?.as_ref(),
                "in pages of {limit}"
            );
        }
    }
    Ok(())
}
