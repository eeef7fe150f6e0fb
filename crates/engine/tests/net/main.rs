//! How a net is put together, and what comes of it.

mod connections;
mod gradients;
mod parameters;
mod shapes;

use sparknet_engine::{Error, Net, NetSpec, NetState, Phase, net::NoData};
use sparknet_proto::{caffe::NetParameter, text};

fn spec(prototxt: &str, state: NetState) -> Result<NetSpec, Error> {
    let message: NetParameter = text::parse("test", prototxt).unwrap_or_else(|error| panic!("{error}"));
    Ok(NetSpec::from_proto(&message, state)?)
}

fn build(prototxt: &str) -> Result<Net, Error> {
    Net::new(spec(prototxt, NetState::new(Phase::Train))?, &mut NoData, 1)
}

fn net(prototxt: &str) -> Net {
    build(prototxt).unwrap_or_else(|error| panic!("{error}"))
}

fn message(prototxt: &str) -> String {
    match build(prototxt) {
        Ok(_) => panic!("taken: {prototxt}"),
        Err(error) => error.to_string(),
    }
}

fn input(name: &str, dims: &[usize]) -> String {
    let dims: String = dims.iter().map(|dim| format!("dim: {dim} ")).collect();
    format!("layer {{ name: '{name}' type: 'Input' top: '{name}' input_param {{ shape {{ {dims} }} }} }}\n")
}

/// A layer without parameters between single blobs.
fn simple(type_name: &str, bottom: &str, top: &str) -> String {
    format!("layer {{ name: '{type_name} {bottom} {top}' type: '{type_name}' bottom: '{bottom}' top: '{top}' }}\n")
}

/// `top = factor · bottom`
fn times(factor: f32, bottom: &str, top: &str) -> String {
    format!(
        "layer {{ name: 'times {top}' type: 'Eltwise' bottom: '{bottom}' bottom: '{bottom}' top: '{top}'
           eltwise_param {{ coeff: {factor} coeff: 0 }} }}\n"
    )
}

/// An InnerProduct without bias.
fn product(name: &str, bottom: &str, num_output: usize, more: &str) -> String {
    format!(
        "layer {{ name: '{name}' type: 'InnerProduct' bottom: '{bottom}' top: '{name}' {more}
           inner_product_param {{ num_output: {num_output} bias_term: false }} }}\n"
    )
}

fn set(net: &mut Net, blob: &str, values: &[f32]) {
    net.blob_data_mut(blob).unwrap().copy_from_slice(values);
}

fn set_diff(net: &mut Net, blob: &str, values: &[f32]) {
    net.blob_diff_mut(blob).unwrap().copy_from_slice(values);
}
