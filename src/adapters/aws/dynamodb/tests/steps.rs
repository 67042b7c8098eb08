//! Conditional writes of steps.

use super::*;

#[tokio::test]
async fn a_step_is_written_on_the_condition_of_its_guard() {
    let revision = Uuid::new_v4();
    let unchanged = revision.to_string();
    for (guard, condition, values) in [
        (Guard::Absent, "attribute_not_exists(event_id)", None),
        (
            Guard::Unchanged(revision),
            "revision = :revision",
            Some((":revision", unchanged.as_str())),
        ),
    ] {
        let (rule, puts) = puts();
        assert_eq!(
            table(&[&rule]).write(&step(guard)).await.expect("written"),
            Written::Done
        );
        let puts = puts.lock().expect("not poisoned");
        let [put] = &puts[..] else {
            panic!("not one write: {puts:?}")
        };
        assert_eq!(
            (put.table_name(), put.condition_expression()),
            (Some("the-table"), Some(condition))
        );
        assert_eq!(
            put.return_values_on_condition_check_failure(),
            Some(&ReturnValuesOnConditionCheckFailure::AllOld),
            "who loses needs no read to know to whom"
        );
        let values = values.map(|(name, value)| {
            HashMap::from([(name.to_owned(), AttributeValue::S(value.to_owned()))])
        });
        assert_eq!(put.expression_attribute_values(), values.as_ref());
    }
}

#[tokio::test]
async fn only_what_is_dead_or_about_to_be_is_in_the_index() {
    let archived = State::Archived {
        death: death(),
        archived_to: "an object".to_owned(),
    };
    for (state, indexed) in [
        (State::Queued, false),
        (claimed(false), false),
        (claimed(true), true),
        (
            State::Retrying {
                next_attempt_at: noon(),
            },
            false,
        ),
        (State::Delivered, false),
        (dead(true), true),
        (dead(false), false),
        (archived, false),
        (State::Discarded(death()), false),
    ] {
        let next = record(state);
        let (rule, puts) = puts();
        let step = Transition {
            next: next.clone(),
            guard: Guard::Absent,
        };
        table(&[&rule]).write(&step).await.expect("written");
        let puts = puts.lock().expect("not poisoned");
        let item = puts[0].item().expect("an item");
        let keys = indexed.then(|| {
            (
                shard_of(&next.event_id).to_string(),
                "2026-01-15T12:00:00.000Z#an-event".to_owned(),
            )
        });
        assert_eq!(
            text(item, INDEX_SHARD).zip(text(item, INDEX_ORDER)),
            keys,
            "{:?}",
            next.state
        );
        assert_eq!(
            item.contains_key(INDEX_SHARD),
            item.contains_key(INDEX_ORDER)
        );
        assert_eq!(
            item.get("expires_at"),
            Some(&number(next.expires_at.as_second())),
            "TTL takes seconds"
        );
        assert_eq!(parse::<EventRecord>(item.clone()).expect("readable"), next);
    }
}

#[tokio::test]
async fn a_step_that_is_too_late_learns_what_is_there() {
    let found = record(claimed(true));
    let item: Item = to_item(&found).expect("an item");
    for (instead, expected) in [(Some(item), Some(Box::new(found))), (None, None)] {
        let rule = mock!(Client::put_item).then_error(move || refusal(instead.clone()));
        let written = table(&[&rule])
            .write(&step(Guard::Absent))
            .await
            .expect("an answer");
        assert_eq!(written, Written::Lost(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_first_try_got_no_answer_is_not_lost_to_itself() {
    for guard in [Guard::Absent, Guard::Unchanged(Uuid::new_v4())] {
        let step = step(guard);
        let item: Item = to_item(&step.next).expect("an item");
        let answers = mock!(Client::put_item).sequence().http_status(500, None);
        let rule = answers.error(move || refusal(Some(item.clone()))).build();
        assert_eq!(
            table(&[&rule]).write(&step).await.expect("an answer"),
            Written::Done
        );
        assert_eq!(rule.num_calls(), 2);
    }
}
