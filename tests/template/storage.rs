//! Queues, table and archive: retention, deletion and encryption.

use super::*;

#[test]
fn the_queue_hides_a_message_for_six_times_the_processors_time_out() {
    let template = template();
    let allowed = &template["Parameters"]["ProcessorTimeoutSeconds"]["AllowedValues"];
    let visibility = &template["Mappings"]["QueueVisibility"];
    for seconds in allowed.as_vec().expect("a list") {
        let seconds = number(seconds);
        assert_eq!(
            number(&visibility[seconds.to_string().as_str()]["Seconds"]),
            6 * seconds
        );
    }
    assert_eq!(
        visibility.as_hash().expect("a mapping").len(),
        allowed.as_vec().expect("a list").len()
    );
    for queue in ["EventsQueue", "OrderedQueue"] {
        let names = &resource(&template, queue)["Properties"]["VisibilityTimeout"];
        assert_eq!(names[0].as_str(), Some("QueueVisibility"), "{queue}");
    }
}

#[test]
fn a_dead_letter_outlives_the_events_queue() {
    let template = template();
    let retention = |name: &str| {
        number(&resource(&template, name)["Properties"]["MessageRetentionPeriod"]) / (24 * 60 * 60)
    };
    for prefix in ["", "Ordered"] {
        let events = if prefix.is_empty() { "Events" } else { prefix };
        let queues = [format!("{events}Queue"), format!("{prefix}DeadLetterQueue")];
        assert_eq!(queues.map(|queue| retention(&queue)), [10, 14]);
    }
}

#[test]
fn a_dead_letter_is_archived_before_it_expires() {
    let template = template();
    let latest = number(&template["Parameters"]["ArchiveAfterDays"]["MaxValue"]);
    let retention =
        number(&resource(&template, "DeadLetterQueue")["Properties"]["MessageRetentionPeriod"]);
    assert!(
        latest + 2 <= retention / (24 * 60 * 60),
        "a night on which the archive fails can be made up for"
    );
}

#[test]
fn data_and_secret_outlive_the_stack() {
    let template = template();
    for name in [
        "EventsQueue",
        "DeadLetterQueue",
        "EventsTable",
        "ArchiveBucket",
        "ArchiveBucketPolicy",
        "Secret",
        "SigningSecret",
    ] {
        let resource = resource(&template, name);
        assert_eq!(
            resource["DeletionPolicy"].as_str(),
            Some("RetainExceptOnCreate"),
            "{name}"
        );
        assert_eq!(
            resource["UpdateReplacePolicy"].as_str(),
            Some("Retain"),
            "{name}"
        );
    }
}

#[test]
fn the_events_table_forgets_in_time_and_can_be_brought_back() {
    let table = resource(&template(), "EventsTable")["Properties"].clone();
    assert_eq!(
        table["TimeToLiveSpecification"]["AttributeName"].as_str(),
        Some("expires_at")
    );
    assert_eq!(
        table["TimeToLiveSpecification"]["Enabled"].as_bool(),
        Some(true)
    );
    let recovery = &table["PointInTimeRecoverySpecification"];
    assert_eq!(recovery["PointInTimeRecoveryEnabled"].as_bool(), Some(true));
    assert_eq!(
        recovery["RecoveryPeriodInDays"].as_str(),
        Some("BackupDays")
    );
    assert_eq!(
        table["SSESpecification"]["SSEEnabled"].as_bool(),
        Some(true)
    );
    assert_eq!(table["BillingMode"].as_str(), Some("PAY_PER_REQUEST"));
}

#[test]
fn the_archive_is_private_and_ends() {
    let template = template();
    let bucket = resource(&template, "ArchiveBucket")["Properties"].clone();
    for setting in [
        "BlockPublicAcls",
        "BlockPublicPolicy",
        "IgnorePublicAcls",
        "RestrictPublicBuckets",
    ] {
        assert_eq!(
            bucket["PublicAccessBlockConfiguration"][setting].as_bool(),
            Some(true),
            "{setting}"
        );
    }
    assert_eq!(
        bucket["OwnershipControls"]["Rules"][0]["ObjectOwnership"].as_str(),
        Some("BucketOwnerEnforced")
    );
    let rules = bucket["LifecycleConfiguration"]["Rules"]
        .as_vec()
        .expect("rules")
        .clone();
    assert!(
        rules
            .iter()
            .all(|rule| rule["Status"].as_str() == Some("Enabled"))
    );
    // Each object has one rule: of two the shorter would win.
    let of_prefix = |prefix: Option<&str>| {
        let mut found = rules
            .iter()
            .filter(|rule| rule["Prefix"].as_str() == prefix);
        let rule = found
            .next()
            .unwrap_or_else(|| panic!("no rule of {prefix:?}"));
        assert!(found.next().is_none(), "{prefix:?}");
        rule
    };
    let [letters, journal] = ["dead-letters/", "journal/"].map(|prefix| of_prefix(Some(prefix)));
    assert_eq!(
        letters["ExpirationInDays"].as_str(),
        Some("ArchiveRetentionDays")
    );
    let days = &journal["ExpirationInDays"];
    let days: Vec<_> = days
        .as_vec()
        .expect("an !If")
        .iter()
        .filter_map(scalar)
        .collect();
    assert_eq!(
        days,
        ["HasJournal", "JournalDays", "1"],
        "what was kept ends"
    );
    let noncurrent = |rule: &Yaml| number(&rule["NoncurrentVersionExpiration"]["NoncurrentDays"]);
    assert_eq!([noncurrent(letters), noncurrent(journal)], [7, 1]);
    let of_all = of_prefix(None);
    assert!(!of_all["AbortIncompleteMultipartUpload"].is_badvalue());
    assert!(of_all["ExpirationInDays"].is_badvalue());
}

/// A message larger than the dead-letter queue's limit could not be moved there.
#[test]
fn the_queues_take_all_that_ingest_does() {
    for queue in resources_of(&template(), "AWS::SQS::Queue") {
        assert_eq!(
            number(&queue["MaximumMessageSize"]),
            1024 * 1024,
            "{queue:?}"
        );
    }
}
