//! Failed calls to the services of AWS, of every port.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

type Source = Box<dyn StdError + Send + Sync>;

/// A service of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Amazon SQS.
    Sqs,
    /// Amazon CloudWatch.
    CloudWatch,
    /// Amazon DynamoDB.
    DynamoDb,
    /// Amazon S3.
    S3,
    /// AWS Secrets Manager.
    SecretsManager,
    /// AWS Lambda, as the one that invokes functions.
    Lambda,
    /// AWS Lambda, as the one that hands events to the processor.
    EventSourceMapping,
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sqs => "SQS",
            Self::CloudWatch => "CloudWatch",
            Self::DynamoDb => "DynamoDB",
            Self::S3 => "S3",
            Self::SecretsManager => "Secrets Manager",
            Self::Lambda => "Lambda",
            Self::EventSourceMapping => "Lambda's event source mapping",
        })
    }
}

impl Service {
    /// Makes an error of the kind [`Fault::Unavailable`].
    pub fn unavailable(self, source: impl Into<Source>) -> ServiceError {
        self.error(Fault::Unavailable, source.into())
    }

    /// Makes an error of the kind [`Fault::Refused`].
    pub fn refused(self, source: impl Into<Source>) -> ServiceError {
        self.error(Fault::Refused, source.into())
    }

    /// Makes an error of the kind [`Fault::Unreadable`].
    pub fn unreadable(self, source: impl Into<Source>) -> ServiceError {
        self.error(Fault::Unreadable, source.into())
    }

    fn error(self, fault: Fault, source: Source) -> ServiceError {
        ServiceError {
            service: self,
            fault,
            source: source.into(),
        }
    }
}

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No answer, throttling, or a fault of the service. A write may have happened.
    Unavailable,
    /// The same call fails again until the configuration changes.
    Refused,
    /// The service holds data that this version did not write.
    Unreadable,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unavailable => "did not answer or throttled the request",
            Self::Refused => "refused the request",
            Self::Unreadable => "returned data that cannot be read",
        })
    }
}

/// A failed call to a service.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{service} {fault}")]
pub struct ServiceError {
    pub service: Service,
    /// The kind of failure.
    pub fault: Fault,
    source: Arc<dyn StdError + Send + Sync>,
}

impl ServiceError {
    /// Returns whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self.fault {
            Fault::Unavailable => true,
            Fault::Refused | Fault::Unreadable => false,
        }
    }

    /// The type of the error in the answer of a function.
    pub fn kind(&self) -> &'static str {
        match self.service {
            Service::Sqs | Service::CloudWatch => "QueueError",
            Service::DynamoDb => "TableError",
            Service::S3 => "ArchiveError",
            Service::SecretsManager => "SecretsError",
            Service::Lambda => "LambdaError",
            Service::EventSourceMapping => "EventSourceError",
        }
    }
}
