//! Order per conversation: each value of `Order` brings what it needs, and `none` nothing.

use genesys_relay::ports::queue::is_fifo;

use super::*;

/// The conditions on a parameter, and whether each holds for a value.
///
/// The loader drops tags: `!Equals` is a pair, and `!Not` a list of one around it.
fn holding(template: &Yaml, parameter: &str, value: &str) -> BTreeMap<String, bool> {
    fn holds(yaml: &Yaml, of: &str, value: &str) -> Option<bool> {
        match yaml.as_vec()?.as_slice() {
            [negated] => Some(!holds(negated, of, value)?),
            [parameter, compared] if parameter.as_str() == Some(of) => {
                Some(compared.as_str() == Some(value))
            }
            _ => None,
        }
    }
    entries(&template["Conditions"])
        .filter_map(|(name, condition)| Some((name, holds(condition, parameter, value)?)))
        .collect()
}

/// What is left of a value where some conditions are decided.
fn decided(yaml: &Yaml, holds: &BTreeMap<String, bool>) -> Option<Yaml> {
    let is_nothing = yaml.as_str() == Some("AWS::NoValue");
    match yaml {
        _ if is_nothing => None,
        Yaml::Array(items) => {
            let condition = items.first().and_then(Yaml::as_str);
            match condition.and_then(|condition| holds.get(condition)) {
                Some(true) => decided(&items[1], holds),
                Some(false) => decided(&items[2], holds),
                // Other `!If`s stay as they are.
                None if conditional(yaml).0.is_some() => Some(yaml.clone()),
                None => {
                    let items = items.iter().filter_map(|item| decided(item, holds));
                    Some(Yaml::Array(items.collect()))
                }
            }
        }
        Yaml::Hash(entries) => {
            let entries = entries
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), decided(value, holds)?)));
            Some(Yaml::Hash(entries.collect()))
        }
        _ => Some(yaml.clone()),
    }
}

fn deployed(order: &str) -> Yaml {
    deployed_with("Order", order)
}

/// Resources and outputs that a stack has with this value of a parameter.
pub(crate) fn deployed_with(parameter: &str, value: &str) -> Yaml {
    let template = template();
    let holds = holding(&template, parameter, value);
    assert!(!holds.is_empty(), "no condition on {parameter}");
    let mut template = decided(&template, &holds).expect("a template");
    for part in ["Resources", "Outputs"] {
        let resources = hash(part_of(&mut template, part));
        let is_there = |resource: &Yaml| {
            let condition = resource["Condition"].as_str();
            condition.and_then(|condition| holds.get(condition).copied())
        };
        let left: Hash = std::mem::take(resources)
            .into_iter()
            .filter(|(_, resource)| is_there(resource).unwrap_or(true))
            .collect();
        *resources = left;
    }
    template
}

/// Every text of a value, the names of its entries included.
pub(crate) fn texts(yaml: &Yaml) -> Vec<String> {
    match yaml {
        Yaml::Array(items) => items.iter().flat_map(texts).collect(),
        Yaml::Hash(entries) => entries
            .iter()
            .flat_map(|(key, value)| [texts(key), texts(value)].concat())
            .collect(),
        other => scalar(other).into_iter().collect(),
    }
}

fn variables_of(template: &Yaml, function: &str) -> BTreeMap<String, Yaml> {
    entries(&resource(template, function)["Properties"]["Environment"]["Variables"])
        .map(|(name, value)| (name, value.clone()))
        .collect()
}

/// What each role may do with a queue.
fn access_to(template: &Yaml, queue: &str) -> BTreeMap<String, BTreeSet<String>> {
    let roles = entries(&template["Resources"])
        .filter(|(_, found)| found["Type"].as_str() == Some("AWS::IAM::Role"));
    roles
        .filter_map(|(name, role)| {
            let policies = &role["Properties"]["Policies"];
            let statements = &policies[0]["PolicyDocument"]["Statement"];
            let actions: BTreeSet<_> = statements
                .as_vec()?
                .iter()
                .filter(|statement| texts(&statement["Resource"]).iter().any(|of| of == queue))
                .flat_map(|statement| texts(&statement["Action"]))
                .map(|action| action.replace("sqs:", ""))
                .collect();
            (!actions.is_empty()).then(|| (name.replace("Role", ""), actions))
        })
        .collect()
}

#[test]
fn nothing_of_the_order_exists_without_it() {
    let mut template = deployed("none");
    // The nested stack is told that there is none.
    let stack = part_of(part_of(&mut template, "Resources"), "Observability");
    let told = hash(part_of(part_of(stack, "Properties"), "Parameters"))
        .remove(&Yaml::String("Order".to_owned()));
    assert_eq!(told.as_ref().and_then(Yaml::as_str), Some("Order"));
    for part in ["Resources", "Outputs"] {
        let found = texts(&template[part]).into_iter().find(|text| {
            let is_of_order = |word| text.to_lowercase().contains(word);
            ["order", "conversationwait"].into_iter().any(is_of_order) && text != "dead_order"
        });
        assert_eq!(found, None, "{part}");
    }
    assert_eq!(
        resources_of(&template, "AWS::Lambda::EventSourceMapping").len(),
        1
    );
}

#[test]
fn new_events_are_ordered_with_conversation_only() {
    let with_queue = |order: &str| -> Vec<&str> {
        let template = deployed(order);
        let functions = FUNCTIONS.into_iter().filter(|(_, logical_id)| {
            variables_of(&template, logical_id).contains_key("ORDERED_QUEUE_URL")
        });
        functions.map(|(_, logical_id)| logical_id).collect()
    };
    assert_eq!(with_queue("none"), [""; 0]);
    let read_from = [
        "ProcessorFunction",
        "ReplayFunction",
        "LookFunction",
        "RecoveryFunction",
        "BreakerFunction",
    ];
    assert_eq!(
        with_queue("conversation"),
        [&["IngestFunction"], &read_from[..]].concat()
    );
    assert_eq!(with_queue("draining"), read_from);
    // It is told not to send there.
    let replay = variables_of(&deployed("draining"), "ReplayFunction");
    assert_eq!(replay["ORDER"].as_str(), Some("Order"));
}

#[test]
fn ordered_queue_is_read_until_it_has_drained() {
    for order in ["conversation", "draining"] {
        let template = deployed(order);
        let mapping = resource(&template, "OrderedEventSource")["Properties"].clone();
        let other = resource(&template, "ProcessorEventSource")["Properties"].clone();
        assert_eq!(mapping["EventSourceArn"].as_str(), Some("OrderedQueue.Arn"));
        // Lambda takes no batching window for a FIFO queue.
        let but_its_source = |mapping: &Yaml| -> Vec<_> {
            entries(mapping)
                .filter(|(name, _)| name != "EventSourceArn")
                .map(|(name, value)| (name, value.clone()))
                .collect()
        };
        assert_eq!(but_its_source(&mapping), but_its_source(&other), "{order}");
        assert!(mapping["MaximumBatchingWindowInSeconds"].is_badvalue());
        let id = &variables_of(&template, "BreakerFunction")["ORDERED_EVENT_SOURCE_ID"];
        assert_eq!(id.as_str(), Some("OrderedEventSource"));
    }
}

/// Roles may also send while the queue drains: CloudFormation changes a role before its function.
#[test]
fn each_role_may_do_with_the_ordered_queues_what_its_function_does() {
    let read = "ReceiveMessage DeleteMessage ChangeMessageVisibility GetQueueAttributes";
    let actions = |words: &str| words.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    let of_queue = [
        ("Breaker", "GetQueueAttributes"),
        ("Ingest", "SendMessage"),
        ("Look", "GetQueueAttributes"),
        // Never to send: a new message would be at the end of its conversation.
        ("Processor", read),
        ("Recovery", "GetQueueAttributes"),
        ("Replay", "SendMessage GetQueueAttributes"),
    ]
    .map(|(role, words)| (role.to_owned(), actions(words)));
    let of_dead_letters = [("Look", "GetQueueAttributes"), ("Replay", read)]
        .map(|(role, words)| (role.to_owned(), actions(words)));
    for order in ["conversation", "draining"] {
        let template = deployed(order);
        assert_eq!(
            access_to(&template, "OrderedQueue.Arn"),
            of_queue.clone().into(),
            "{order}"
        );
        assert_eq!(
            access_to(&template, "OrderedDeadLetterQueue.Arn"),
            of_dead_letters.clone().into(),
            "{order}"
        );
        let both = access_to(
            &template,
            "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:event-source-mapping:${OrderedEventSource}",
        );
        assert_eq!(both.into_keys().collect::<Vec<_>>(), ["Breaker", "Replay"]);
    }
}

/// Unlike what is made with the stack, they may hold events when the deploy that makes them fails.
#[test]
fn ordered_queues_outlive_the_order_and_a_deploy_that_is_rolled_back() {
    let template = template();
    for name in ["OrderedQueue", "OrderedDeadLetterQueue"] {
        let resource = resource(&template, name);
        for policy in ["DeletionPolicy", "UpdateReplacePolicy"] {
            assert_eq!(resource[policy].as_str(), Some("Retain"), "{name}");
        }
    }
}

#[test]
fn ordered_queues_are_fifo_by_group_and_else_like_the_others() {
    let template = template();
    let properties = |name: &str| resource(&template, name)["Properties"].clone();
    for (ordered, other) in [
        ("OrderedQueue", "EventsQueue"),
        ("OrderedDeadLetterQueue", "DeadLetterQueue"),
    ] {
        let (ordered, other) = (properties(ordered), properties(other));
        assert_eq!(ordered["FifoQueue"].as_bool(), Some(true));
        let name = ordered["QueueName"].as_str().expect("a name");
        assert!(is_fifo(name), "{name}");
        for (property, value) in entries(&other) {
            let is_its_own = ["QueueName", "RedrivePolicy", "RedriveAllowPolicy"];
            if !is_its_own.contains(&property.as_str()) {
                assert_eq!(&ordered[property.as_str()], value, "{property}");
            }
        }
    }
    let queue = properties("OrderedQueue");
    assert_eq!(
        [&queue["DeduplicationScope"], &queue["FifoThroughputLimit"]].map(Yaml::as_str),
        [Some("messageGroup"), Some("perMessageGroupId")]
    );
    // The record's own attempts decide before SQS does.
    assert_eq!(number(&queue["RedrivePolicy"]["maxReceiveCount"]), 1000);
    assert_eq!(
        queue["RedrivePolicy"]["deadLetterTargetArn"].as_str(),
        Some("OrderedDeadLetterQueue.Arn")
    );
    let allowed = properties("OrderedDeadLetterQueue")["RedriveAllowPolicy"].clone();
    let name = queue["QueueName"].as_str().expect("a name");
    assert_eq!(allowed["redrivePermission"].as_str(), Some("byQueue"));
    assert!(
        allowed["sourceQueueArns"][0]
            .as_str()
            .is_some_and(|arn| arn.ends_with(&format!(":{name}")))
    );
}
