//! The floor: a Lambda function behind an HTTP API in Rust, on AWS's own runtime crate, that does
//! nothing and answers.

use lambda_http::{Body, Error, Request, Response, run, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(async |_: Request| {
        let body = Body::from(r#"{"status":"accepted"}"#);
        Ok::<_, Error>(
            Response::builder()
                .header("content-type", "application/json")
                .body(body)?,
        )
    }))
    .await
}
