//! Port to the function itself, which carries a request on after its caller has been answered.

use std::future::Future;

use genesys_relay::adapters::aws::lambda::LambdaFunction;
use genesys_relay::ports::service::ServiceError;
use serde_json::Value;

/// Carries out requests without a waiting caller.
pub(crate) trait Background: Send + Sync + 'static {
    /// Hands over a request in the form of a direct invocation. `Ok` means that it will be carried
    /// out.
    fn hand_over(&self, request: &Value) -> impl Future<Output = Result<(), ServiceError>> + Send;
}

/// Carries out each request in an invocation of its own.
impl Background for LambdaFunction {
    async fn hand_over(&self, request: &Value) -> Result<(), ServiceError> {
        self.invoke_later(request).await
    }
}
