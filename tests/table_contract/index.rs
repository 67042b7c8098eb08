//! The list of dead letters.

use super::*;

/// The part of a record that the index must hold. The rest is in the record alone.
fn seen(summary: &Summary, now: Timestamp) -> impl PartialEq + std::fmt::Debug + use<> {
    let replayed_at = match &summary.state {
        State::Dead(dead) => dead.replayed_at,
        _ => None,
    };
    (
        (
            summary.event_id.clone(),
            summary.state.name(),
            summary.state.death(now),
            replayed_at,
        ),
        (
            summary.source,
            summary.webhook_id.clone(),
            summary.received_at,
        ),
        (
            summary.attempts_made,
            summary.replays_made,
            summary.expires_at,
        ),
    )
}

/// The whole list, read in pages of up to `limit`.
async fn list<W: EventsTable>(table: &W, window: Window, limit: usize) -> Result<Vec<Summary>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = table.dead_letters(window, after.as_ref(), limit).await?;
        assert!(
            page.items.len() <= limit,
            "{} on a page of {limit}",
            page.items.len()
        );
        all.extend(page.items);
        let Some(next) = page.next else {
            return Ok(all);
        };
        assert!(Some(&next) > after.as_ref(), "a list that does not go on");
        let token: Position = next.token().parse()?;
        assert_eq!(token, next);
        after = Some(token);
    }
}

fn ids(list: &[Summary]) -> Vec<&str> {
    list.iter()
        .map(|summary| summary.event_id.as_str())
        .collect()
}

/// Only on a table that holds no other dead letters.
pub(super) async fn dead_letters_are_listed_oldest_first(table: &impl EventsTable) -> Result<()> {
    let pair = Pair::of(table);
    let everything = Window::default();
    assert_eq!(list(table, everything, 10).await?, Vec::new());

    // In no order, five to a moment, and far more than there are shards.
    let mut places = BTreeSet::new();
    for number in 0..60_i64 {
        let seconds = number * 37 % 12;
        let name = format!(
            "{}-{number}",
            ["dead", "Dead", "_dead", "0", "-"][usize::try_from(number % 5)?]
        );
        let record = pair.send_to_dead_letters(&name, at(seconds)).await?;
        places.insert(Position::of(record.received_at, &record.event_id));
    }
    assert_eq!(places.len(), 60);
    let expected = list(&pair.model, everything, 1000).await?;
    let now = at(100);
    let seen_all = |list: &[Summary]| {
        list.iter()
            .map(|summary| seen(summary, now))
            .collect::<Vec<_>>()
    };
    for limit in [1, 2, 3, 7, 8, 20, 59, 60, 61, 1000] {
        let found = list(table, everything, limit).await?;
        assert_eq!(ids(&found), ids(&expected), "in pages of {limit}");
        assert_eq!(seen_all(&found), seen_all(&expected));
    }
    let found = list(table, everything, 7).await?;
    let listed = found
        .iter()
        .map(|summary| Position::of(summary.received_at, &summary.event_id));
    assert!(listed.eq(places), "oldest first, and each once");

    // What leaves between two pages, the last of a page included, hides no other.
    let page = table.dead_letters(everything, None, 9).await?;
    for gone in [page.items.last(), expected.get(30)].into_iter().flatten() {
        let record = pair.get(&gone.event_id).await?.context("a record")?;
        let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&record, now) else {
            panic!("not dead: {record:?}")
        };
        pair.take(&gone.event_id, &dead.discarded(act("discard", now)))
            .await?;
    }
    let mut rest = Vec::new();
    let mut after = page.next;
    while let Some(position) = after {
        let page = table.dead_letters(everything, Some(&position), 9).await?;
        rest.extend(page.items);
        after = page.next;
    }
    let left: Vec<_> = ids(&expected)
        .into_iter()
        .skip(page.items.len())
        .filter(|id| *id != expected[30].event_id.as_str())
        .collect();
    assert_eq!(ids(&rest), left);
    Ok(())
}

/// Only after the list's own test, and on a day of its own.
pub(super) async fn a_window_cuts_the_list(table: &impl EventsTable) -> Result<()> {
    const DAY: i64 = 86_400;
    let pair = Pair::of(table);
    for number in 0..24 {
        pair.send_to_dead_letters(&format!("window-{number}"), at(DAY + number))
            .await?;
    }
    let day = Window {
        since: Some(at(DAY)),
        until: Some(at(2 * DAY)),
    };
    assert_eq!(list(table, day, 5).await?.len(), 24);
    for (since, until) in [(3, 9), (0, 1), (23, 24), (5, 5), (9, 3), (30, 40)] {
        let (since, until) = (at(DAY + since), at(DAY + until));
        let window = Window {
            since: Some(since),
            until: Some(until),
        };
        let expected = list(&pair.model, window, 1000).await?;
        for limit in [1, 3, 100] {
            let mut found = list(table, window, limit).await?;
            // A table may count in whole milliseconds: who asked looks at the borders.
            found.retain(|summary| summary.received_at != until);
            assert_eq!(
                ids(&found),
                ids(&expected),
                "from {since} to before {until}, in pages of {limit}"
            );
        }
    }
    let open_end = Window {
        since: Some(at(DAY + 20)),
        until: None,
    };
    assert_eq!(
        ids(&list(table, open_end, 3).await?),
        ["window-20", "window-21", "window-22", "window-23"]
    );
    // A position before the window does not widen it, and one behind it leaves nothing.
    let window = Window {
        since: Some(at(DAY + 20)),
        until: Some(at(DAY + 1000)),
    };
    let early = Position::of(at(DAY), &id("window-0"));
    assert_eq!(
        table
            .dead_letters(window, Some(&early), 100)
            .await?
            .items
            .len(),
        4
    );
    let late = Position::of(at(2 * DAY), &id("window-0"));
    let page = table.dead_letters(window, Some(&late), 100).await?;
    assert_eq!((page.items.len(), page.next), (0, None));
    Ok(())
}

/// On a day of its own as well.
pub(super) async fn the_list_holds_the_dead_only(table: &impl EventsTable) -> Result<()> {
    const DAY: i64 = 172_800;
    let pair = Pair::of(table);
    let window = Window {
        since: Some(at(DAY)),
        until: None,
    };
    let listed = async |now: Timestamp| -> Result<Vec<String>> {
        let list = list(table, window, 3).await?;
        let dead = list
            .into_iter()
            .filter(|summary| summary.state.death(now).is_some());
        Ok(dead.map(|summary| summary.event_id.to_string()).collect())
    };
    let names = [
        "delivered",
        "archived",
        "discarded",
        "unlisted",
        "replayed",
        "claimed",
    ];
    for name in names {
        pair.send_to_dead_letters(name, at(DAY)).await?;
    }
    assert_eq!(listed(at(DAY)).await?.len(), names.len());
    for name in names {
        let record = pair.get(&id(name)).await?.context("a record")?;
        let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&record, at(DAY))
        else {
            panic!("not dead: {record:?}")
        };
        // A minute after its death: before that, what comes back unasked has to wait.
        let again = claim(Some(&record), &event(name, at(DAY)), at(DAY + 60), false);
        match name {
            "archived" => {
                pair.take(&id(name), &dead.archived(act(name, at(DAY)), "an object"))
                    .await?
            }
            "discarded" => {
                pair.take(&id(name), &dead.discarded(act(name, at(DAY))))
                    .await?
            }
            "unlisted" => pair.take(&id(name), &dead.unlisted(at(DAY))).await?,
            "replayed" => {
                pair.take(&id(name), &dead.replayed(act(name, at(DAY))))
                    .await?
            }
            "claimed" => pair.take(&id(name), again.transition()).await?,
            _ => {
                pair.take(&id(name), again.transition()).await?;
                pair.take(&id(name), &again.delivered(attempt(at(DAY + 61), 200)))
                    .await?
            }
        };
    }
    assert_eq!(
        listed(at(DAY + 1)).await?,
        ["replayed"],
        "dead until it is claimed"
    );

    // A last attempt is in the index from its claim on, and dead when nothing is heard of it by the
    // end of its lease.
    let crashed = event("crashed", at(DAY + 1));
    let last = claim(None, &crashed, at(DAY + 1), true);
    pair.take(&crashed.id, last.transition()).await?;
    assert_eq!(listed(at(DAY + 60)).await?, ["replayed"]);
    assert_eq!(listed(at(DAY + 61)).await?, ["replayed", "crashed"]);
    let summary = list(table, window, 100)
        .await?
        .pop()
        .context("a dead letter")?;
    assert_eq!(
        summary.state.death(at(DAY + 61)).map(|death| death.reason),
        Some(ReasonKind::Crashed)
    );
    pair.take(&crashed.id, &last.delivered(attempt(at(DAY + 62), 200)))
        .await?;
    assert_eq!(listed(at(DAY + 63)).await?, ["replayed"]);
    assert_eq!(
        list(table, window, 100).await?.len(),
        1,
        "and nothing else is in the index"
    );
    Ok(())
}
