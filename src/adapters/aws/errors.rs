//! Classification of failed calls: may the same call succeed later, or does it fail again?

use std::error::Error as StdError;

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

use crate::ports::service::{Service, ServiceError};
use crate::runtime::metrics;

/// Codes of the same meaning that the SDK does not list: those of SQS for the key of its queues and
/// for too many messages in flight, those of DynamoDB for its key and for an item that two calls
/// write at once, and those of Lambda while an earlier change is under way.
const MORE_TRANSIENT_ERRORS: [&str; 9] = [
    "KMS.ThrottlingException",
    "KMSThrottlingException",
    "KmsThrottled",
    "OverLimit",
    "ReplicatedWriteConflictException",
    "TransactionConflictException",
    "InternalServerError",
    "ResourceConflictException",
    "ResourceInUseException",
];

/// Classifies and counts a failed call.
pub(super) fn failed<E>(service: Service) -> impl FnOnce(SdkError<E>) -> ServiceError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    move |error| {
        match service {
            Service::Sqs => metrics::QUEUE_ERRORS.add(1),
            Service::DynamoDb => metrics::TABLE_ERRORS.add(1),
            Service::CloudWatch
            | Service::S3
            | Service::SecretsManager
            | Service::Lambda
            | Service::EventSourceMapping => {}
        }
        if is_transient(&error) {
            service.unavailable(error)
        } else {
            service.refused(error)
        }
    }
}

/// True if the same call may succeed later.
fn is_transient<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::ConstructionFailure(_) => false,
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            status >= 500 || status == 429 || context.err().code().is_some_and(is_transient_code)
        }
        // Time-outs, broken connections and answers cut short; the enum is open, and in doubt it is
        // worth a retry.
        _ => true,
    }
}

/// The same by the code of an error alone, as the entry of a batch has it.
pub(super) fn is_transient_code(code: &str) -> bool {
    // Some come with their namespace before a `#`.
    let code = code.rsplit('#').next().unwrap_or(code);
    [THROTTLING_ERRORS, TRANSIENT_ERRORS, &MORE_TRANSIENT_ERRORS]
        .iter()
        .any(|codes| codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::error::ErrorMetadata;
    use aws_sdk_sqs::operation::send_message::SendMessageError;
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn answered(status: u16, code: &str) -> SdkError<SendMessageError> {
        let error = SendMessageError::generic(ErrorMetadata::builder().code(code).build());
        let status = status.try_into().expect("a status");
        SdkError::service_error(error, HttpResponse::new(status, SdkBody::empty()))
    }

    #[test]
    fn every_code_that_the_sdk_tries_again_may_succeed_later() {
        for code in THROTTLING_ERRORS
            .iter()
            .chain(TRANSIENT_ERRORS)
            .chain(&MORE_TRANSIENT_ERRORS)
        {
            assert!(is_transient(&answered(400, code)), "{code}");
        }
        assert!(is_transient_code(
            "com.amazonaws.sqs#KMS.ThrottlingException"
        ));
    }

    #[test]
    fn a_status_tells_an_outage_from_a_refusal_where_no_code_does() {
        for (status, code, transient) in [
            (500, "Unheard", true),
            (503, "", true),
            (429, "Unheard", true),
            (400, "ValidationException", false),
            (403, "AccessDeniedException", false),
            (403, "KMS.AccessDeniedException", false),
            (404, "ResourceNotFoundException", false),
            (413, "RequestTooLarge", false),
        ] {
            assert_eq!(
                is_transient(&answered(status, code)),
                transient,
                "{status} {code}"
            );
        }
    }
}
