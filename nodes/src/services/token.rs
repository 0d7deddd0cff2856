//! Tokens: made, read, listed, revoked. A secret is made here, shown in this one answer, and kept nowhere.

use std::sync::Arc;

use featureops_proto::log::{self, entry};
use featureops_proto::timestamp_if_set;
use featureops_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, GetTokenRequest, ListTokensRequest, ListTokensResponse,
    RevokeTokenRequest, RevokeTokenResponse, Token,
};
use tonic::{Request, Response, Status};

use crate::access::secret;
use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::token_service_server::TokenService;
use crate::sent::sent;
use crate::services::required;

/// The service.
pub struct Tokens(pub Arc<Host>);

/// What a person defines of a token; all that the node and the log add is left out.
pub fn definition(token: Token) -> Token {
    Token {
        name: token.name,
        roles: token.roles,
        environments: token.environments,
        flag_prefix: token.flag_prefix,
        expire_time: token.expire_time,
        description: token.description,
        ..Token::default()
    }
}

fn id_of(name: &str) -> Result<&str, Status> {
    name.strip_prefix("tokens/")
        .filter(|id| !id.is_empty())
        .ok_or_else(|| refusal::invalid("name", name, "is not of the form tokens/{token}"))
}

impl Tokens {
    fn used(&self, token: Token) -> Token {
        let last_use_ms = self.0.access.last_use_ms(&token.key_id);
        Token { last_use_time: timestamp_if_set(last_use_ms), ..token }
    }
}

#[tonic::async_trait]
impl TokenService for Tokens {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let (from, request) = sent(request);
        let token = definition(required(request.token, "token")?);
        let id = id_of(&token.name)?.to_owned();
        let made = secret::make(self.0.entropy.as_ref()).map_err(|error| {
            Status::unavailable(format!("no entropy for a secret: {error}; nothing was written: try again"))
        })?;
        let command = entry::Command::CreateToken(log::CreateToken {
            token: Some(token),
            secret_hash: made.hash,
            key_id: made.key_id.clone(),
        });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        let token = self.0.write(write, |state, _| state.token(&id)).await?;
        // A repeated request got its first reply: the token has the secret of that answer, not this one.
        let is_shown = !request.validate_only && token.key_id == made.key_id;
        let secret = if is_shown { made.text } else { String::new() };
        let key_id = if request.validate_only { String::new() } else { token.key_id.clone() };
        Ok(Response::new(CreateTokenResponse { token: Some(Token { key_id, ..token }), secret }))
    }

    async fn get_token(&self, request: Request<GetTokenRequest>) -> Result<Response<Token>, Status> {
        let request = request.into_inner();
        let id = id_of(&request.name)?;
        let token = self.0.replica.read(|state| state.token(id));
        let token = token.ok_or_else(|| refusal::not_found("name", &request.name))?;
        Ok(Response::new(self.used(token)))
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let request = request.into_inner();
        let page = Page::of(request.page_size, &request.page_token, &["tokens"])?;
        let read = |after: &str, limit| self.0.replica.read(|state| state.tokens(after, limit));
        let key = |token: &Token| token.name.trim_start_matches("tokens/").to_owned();
        let (tokens, next_page_token) = page.read(read, key);
        let tokens = tokens.into_iter().map(|token| self.used(token)).collect();
        Ok(Response::new(ListTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let (from, request) = sent(request);
        id_of(&request.name)?;
        let command = entry::Command::RevokeToken(log::RevokeToken { name: request.name });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, |_, _| Some(RevokeTokenResponse {})).await.map(Response::new)
    }
}
