//! The port to the function itself: to go on with a request after its caller has been answered.

use std::future::Future;

use genesys_relay::adapters::aws::lambda::{InvokeError, LambdaFunction};
use serde_json::Value;

/// Carries out requests that nobody waits for.
pub(crate) trait Background: Send + Sync + 'static {
    /// Hands over a request as an operator would invoke the function with it. `Ok` means that it will be carried out.
    fn hand_over(&self, request: &Value) -> impl Future<Output = Result<(), InvokeError>> + Send;
}

/// In an invocation of its own.
impl Background for LambdaFunction {
    async fn hand_over(&self, request: &Value) -> Result<(), InvokeError> {
        self.invoke_later(request).await
    }
}
