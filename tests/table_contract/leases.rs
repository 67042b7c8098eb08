//! Leases and checkpoints.

use super::*;

pub(super) async fn one_run_at_a_time_has_the_lease(
    table: &impl EventsTable,
    what: LeaseName,
) -> Result<()> {
    let lease = |owner: Uuid, until: Timestamp| RunLease {
        owner,
        action: "replay".to_owned(),
        by: "an operator".to_owned(),
        since: at(0),
        until,
    };
    let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert_eq!(table.lease(what, at(0)).await?, None);
    table.release(what, one).await?;

    assert_eq!(table.acquire(what, &lease(one, at(60)), at(0)).await?, None);
    assert_eq!(table.lease(what, at(59)).await?, Some(lease(one, at(60))));
    assert_eq!(
        table.acquire(what, &lease(other, at(90)), at(59)).await?,
        Some(lease(one, at(60))),
        "it is held"
    );
    table.release(what, other).await?;
    assert_eq!(
        table.lease(what, at(59)).await?,
        Some(lease(one, at(60))),
        "only its owner gives it back"
    );
    assert_eq!(
        table.acquire(what, &lease(one, at(70)), at(59)).await?,
        None,
        "its owner may ask twice"
    );
    assert_eq!(table.lease(what, at(69)).await?, Some(lease(one, at(70))));

    assert_eq!(table.lease(what, at(70)).await?, None, "it has run out");
    assert_eq!(
        table.acquire(what, &lease(other, at(130)), at(70)).await?,
        None,
        "so another owner may have it"
    );
    table.release(what, one).await?;
    assert_eq!(
        table.acquire(what, &lease(one, at(130)), at(71)).await?,
        Some(lease(other, at(130)))
    );
    table.release(what, other).await?;
    assert_eq!(table.lease(what, at(71)).await?, None);
    assert_eq!(
        table.acquire(what, &lease(one, at(130)), at(71)).await?,
        None,
        "it was given back"
    );
    table.release(what, one).await?;
    Ok(())
}

pub(super) async fn leases_on_different_things_are_apart(table: &impl EventsTable) -> Result<()> {
    let lease = |owner| RunLease {
        owner: Uuid::from_u128(owner),
        action: "recover".to_owned(),
        by: "a schedule".to_owned(),
        since: at(0),
        until: at(60),
    };
    assert_eq!(
        table
            .acquire(LeaseName::DeadLetters, &lease(1), at(0))
            .await?,
        None
    );
    assert_eq!(
        table.acquire(LeaseName::Recovery, &lease(2), at(0)).await?,
        None
    );
    table
        .release(LeaseName::Recovery, Uuid::from_u128(2))
        .await?;
    assert_eq!(
        table.lease(LeaseName::DeadLetters, at(0)).await?,
        Some(lease(1))
    );
    table
        .release(LeaseName::DeadLetters, Uuid::from_u128(1))
        .await?;
    Ok(())
}

pub(super) async fn a_checkpoint_is_the_newest_that_was_saved(
    table: &impl EventsTable,
) -> Result<()> {
    assert_eq!(table.checkpoint("one").await?, None);
    let checkpoint = |cursor, span_seconds, resume: Option<&str>| Checkpoint {
        cursor: at(cursor),
        span_seconds,
        resume: resume.map(str::to_owned),
    };
    for saved in [
        checkpoint(10, 3600, Some("a place")),
        checkpoint(20, 1800, None),
    ] {
        table.save_checkpoint("one", &saved).await?;
        assert_eq!(table.checkpoint("one").await?, Some(saved));
    }
    assert_eq!(
        table.checkpoint("other").await?,
        None,
        "each source has its own"
    );
    Ok(())
}

pub(super) async fn a_bulk_replay_is_the_newest_that_was_saved(
    table: &impl EventsTable,
) -> Result<()> {
    assert_eq!(table.bulk_replay().await?, None);
    for force in [true, false] {
        let replay = BulkReplay {
            act: act("replay", at(7)),
            forced: force.then(|| act("replay", at(7))),
        };
        table.save_bulk_replay(&replay).await?;
        assert_eq!(table.bulk_replay().await?, Some(replay));
    }
    Ok(())
}
