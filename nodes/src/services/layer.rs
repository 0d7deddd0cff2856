//! Layers and holdouts: read, listed, set, deleted.

use std::sync::Arc;

use featureops_proto::log::{self, entry};
use featureops_proto::v1::{
    DeleteHoldoutRequest, DeleteHoldoutResponse, DeleteLayerRequest, DeleteLayerResponse, GetHoldoutRequest,
    GetLayerRequest, Holdout, Layer, ListHoldoutsRequest, ListHoldoutsResponse, ListLayersRequest,
    ListLayersResponse, SetHoldoutRequest, SetLayerRequest,
};
use featureops_proto::{Collection, Name, environment_of, id_of};
use tonic::{Request, Response, Status};

use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::layer_service_server::LayerService;
use crate::sent::sent;
use crate::services::{name, required};

/// The service.
pub struct Layers(pub Arc<Host>);

#[tonic::async_trait]
impl LayerService for Layers {
    async fn get_layer(&self, request: Request<GetLayerRequest>) -> Result<Response<Layer>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Layers, "name")?;
        let layer = self.0.replica.read(|state| state.layer(name.environment, name.id));
        layer.map(Response::new).ok_or_else(|| refusal::not_found("name", &request.name))
    }

    async fn list_layers(
        &self,
        request: Request<ListLayersRequest>,
    ) -> Result<Response<ListLayersResponse>, Status> {
        let request = request.into_inner();
        let environment = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        let page = Page::of(request.page_size, &request.page_token, &["layers", environment])?;
        let read = |after: &str, limit| self.0.replica.read(|state| state.layers(environment, after, limit));
        let (layers, next_page_token) =
            page.read(read, |layer| id_of(&layer.name, Collection::Layers).to_owned());
        Ok(Response::new(ListLayersResponse { layers, next_page_token }))
    }

    async fn set_layer(&self, request: Request<SetLayerRequest>) -> Result<Response<Layer>, Status> {
        let (from, request) = sent(request);
        let layer = required(request.layer, "layer")?;
        name(&layer.name, Collection::Layers, "layer.name")?;
        let layer = definition(layer);
        let command = entry::Command::SetLayer(log::SetLayer { layer: Some(layer), etag: request.etag });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        let read = self.0.write(write, |state, done| {
            let name = Name::parse(&done.name, Collection::Layers).ok()?;
            state.layer(name.environment, name.id)
        });
        read.await.map(Response::new)
    }

    async fn delete_layer(
        &self,
        request: Request<DeleteLayerRequest>,
    ) -> Result<Response<DeleteLayerResponse>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Layers, "name")?;
        let command =
            entry::Command::DeleteLayer(log::DeleteLayer { name: request.name, etag: request.etag });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, |_, _| Some(DeleteLayerResponse {})).await.map(Response::new)
    }

    async fn get_holdout(&self, request: Request<GetHoldoutRequest>) -> Result<Response<Holdout>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Holdouts, "name")?;
        let holdout = self.0.replica.read(|state| state.holdout(name.environment, name.id));
        holdout.map(Response::new).ok_or_else(|| refusal::not_found("name", &request.name))
    }

    async fn list_holdouts(
        &self,
        request: Request<ListHoldoutsRequest>,
    ) -> Result<Response<ListHoldoutsResponse>, Status> {
        let request = request.into_inner();
        let environment = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        let page = Page::of(request.page_size, &request.page_token, &["holdouts", environment])?;
        let read =
            |after: &str, limit| self.0.replica.read(|state| state.holdouts(environment, after, limit));
        let (holdouts, next_page_token) =
            page.read(read, |holdout| id_of(&holdout.name, Collection::Holdouts).to_owned());
        Ok(Response::new(ListHoldoutsResponse { holdouts, next_page_token }))
    }

    async fn set_holdout(&self, request: Request<SetHoldoutRequest>) -> Result<Response<Holdout>, Status> {
        let (from, request) = sent(request);
        let holdout = required(request.holdout, "holdout")?;
        name(&holdout.name, Collection::Holdouts, "holdout.name")?;
        let holdout = holdout_definition(holdout);
        let command =
            entry::Command::SetHoldout(log::SetHoldout { holdout: Some(holdout), etag: request.etag });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        let read = self.0.write(write, |state, done| {
            let name = Name::parse(&done.name, Collection::Holdouts).ok()?;
            state.holdout(name.environment, name.id)
        });
        read.await.map(Response::new)
    }

    async fn delete_holdout(
        &self,
        request: Request<DeleteHoldoutRequest>,
    ) -> Result<Response<DeleteHoldoutResponse>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Holdouts, "name")?;
        let command =
            entry::Command::DeleteHoldout(log::DeleteHoldout { name: request.name, etag: request.etag });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, |_, _| Some(DeleteHoldoutResponse {})).await.map(Response::new)
    }
}

/// What a person defines of a layer; all that the log adds is left out.
pub fn definition(layer: Layer) -> Layer {
    Layer { name: layer.name, description: layer.description, ..Layer::default() }
}

/// What a person defines of a holdout.
pub fn holdout_definition(holdout: Holdout) -> Holdout {
    Holdout { version: 0, etag: String::new(), experiments: Vec::new(), ..holdout }
}
