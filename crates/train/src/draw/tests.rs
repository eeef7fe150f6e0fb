use std::collections::HashSet;

use sparknet_engine::spec::NetState;
use sparknet_proto::caffe::{
    ConvolutionParameter, InnerProductParameter, LayerParameter, MemoryDataParameter, NetParameter, PoolingParameter,
};

use super::*;

fn layer(type_name: &str, name: &str, bottoms: &[&str], tops: &[&str]) -> LayerParameter {
    LayerParameter {
        name: Some(name.to_owned()),
        r#type: Some(type_name.to_owned()),
        bottom: bottoms.iter().map(|&bottom| bottom.to_owned()).collect(),
        top: tops.iter().map(|&top| top.to_owned()).collect(),
        ..Default::default()
    }
}

fn convolution(name: &str, bottom: &str, num_output: u32, kernel: u32, pad: u32) -> LayerParameter {
    let mut layer = layer("Convolution", name, &[bottom], &[name]);
    layer.convolution_param = Some(ConvolutionParameter {
        num_output: Some(num_output),
        kernel_size: vec![kernel],
        pad: vec![pad],
        ..Default::default()
    });
    layer
}

fn pooling(name: &str, bottom: &str, kernel: u32, stride: u32, pad: u32) -> LayerParameter {
    let mut layer = layer("Pooling", name, &[bottom], &[name]);
    layer.pooling_param = Some(PoolingParameter {
        kernel_size: Some(kernel),
        stride: Some(stride),
        pad: Some(pad),
        ..Default::default()
    });
    layer
}

fn inner_product(name: &str, bottom: &str, num_output: u32) -> LayerParameter {
    let mut layer = layer("InnerProduct", name, &[bottom], &[name]);
    layer.inner_product_param = Some(InnerProductParameter {
        num_output: Some(num_output),
        ..Default::default()
    });
    layer
}

fn data() -> LayerParameter {
    let mut layer = layer("MemoryData", "mnist", &[], &["data", "label"]);
    layer.memory_data_param = Some(MemoryDataParameter {
        batch_size: Some(64),
        channels: Some(1),
        height: Some(28),
        width: Some(28),
        ..Default::default()
    });
    layer
}

fn spec(name: &str, layer: Vec<LayerParameter>) -> NetSpec {
    let net = NetParameter {
        name: Some(name.to_owned()),
        layer,
        ..Default::default()
    };
    NetSpec::from_proto(&net, NetState::new(Phase::Train)).unwrap()
}

fn lenet() -> NetSpec {
    let layers = vec![
        data(),
        convolution("conv1", "data", 20, 5, 0),
        pooling("pool1", "conv1", 2, 2, 0),
        convolution("conv2", "pool1", 50, 5, 0),
        pooling("pool2", "conv2", 2, 2, 0),
        inner_product("ip1", "pool2", 500),
        layer("ReLU", "relu1", &["ip1"], &["ip1"]),
        layer("Dropout", "drop1", &["ip1"], &["ip1"]),
        inner_product("ip2", "ip1", 10),
        layer("Accuracy", "accuracy", &["ip2", "label"], &["accuracy_score"]),
        layer("SoftmaxWithLoss", "loss", &["ip2", "label"], &["softmax_loss"]),
    ];
    spec("LeNet", layers)
}

fn inception(layers: &mut Vec<LayerParameter>, name: &str, bottom: &str) -> String {
    let at = |part: &str| format!("inception_{name}/{part}");
    let conv = |layers: &mut Vec<LayerParameter>, part: &str, bottom: &str, num_output, kernel, pad| {
        layers.push(convolution(&at(part), bottom, num_output, kernel, pad));
        let relu = format!("relu_{part}");
        layers.push(layer("ReLU", &at(&relu), &[&at(part)], &[&at(part)]));
    };
    conv(layers, "1x1", bottom, 64, 1, 0);
    conv(layers, "3x3_reduce", bottom, 96, 1, 0);
    conv(layers, "3x3", &at("3x3_reduce"), 128, 3, 1);
    conv(layers, "5x5_reduce", bottom, 16, 1, 0);
    conv(layers, "5x5", &at("5x5_reduce"), 32, 5, 2);
    layers.push(pooling(&at("pool"), bottom, 3, 1, 1));
    conv(layers, "pool_proj", &at("pool"), 32, 1, 0);
    let branches = ["1x1", "3x3", "5x5", "pool_proj"].map(at);
    let bottoms: Vec<&str> = branches.iter().map(String::as_str).collect();
    layers.push(layer("Concat", &at("output"), &bottoms, &[&at("output")]));
    at("output")
}

/// Two inception modules, with a loss of its own after the first.
fn inceptions() -> NetSpec {
    let mut layers = vec![
        data(),
        convolution("conv1/7x7_s2", "data", 64, 7, 3),
        layer("LRN", "conv1/norm", &["conv1/7x7_s2"], &["conv1/norm"]),
    ];
    let first = inception(&mut layers, "3a", "conv1/norm");
    layers.push(inner_product("loss1/classifier", &first, 10));
    let mut loss = layer(
        "SoftmaxWithLoss",
        "loss1/loss",
        &["loss1/classifier", "label"],
        &["loss1"],
    );
    loss.loss_weight = vec![0.3];
    layers.push(loss);
    let second = inception(&mut layers, "3b", &first);
    layers.push(pooling("pool3", &second, 3, 2, 0));
    layers.push(inner_product("loss2/classifier", "pool3", 10));
    layers.push(layer(
        "SoftmaxWithLoss",
        "loss2/loss",
        &["loss2/classifier", "label"],
        &["loss2"],
    ));
    layers.push(layer(
        "Accuracy",
        "top-1",
        &["loss2/classifier", "label"],
        &["accuracy"],
    ));
    spec("Inceptions", layers)
}

fn lenet_shapes(blob: &str) -> Option<Vec<usize>> {
    Some(match blob {
        "data" => vec![64, 1, 28, 28],
        "label" => vec![64],
        "conv1" => vec![64, 20, 24, 24],
        _ => return None,
    })
}

/// The texts of a drawing, after a check that its tags are closed in the order in which they were opened.
fn texts(svg: &str) -> Vec<String> {
    let mut open = Vec::new();
    let mut texts = vec![];
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        let (text, tag) = rest.split_at(start);
        let text = text.trim();
        assert!(!text.contains('>'), "{text}");
        if !text.is_empty() {
            texts.push(text.to_owned());
        }
        let (tag, after) = tag[1..].split_once('>').unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert!(!tag.contains('<'), "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name.to_owned()));
        } else if !tag.ends_with('/') {
            open.push(name.to_owned());
        }
        rest = after;
    }
    assert_eq!(open, Vec::<String>::new());
    assert_eq!(rest.trim(), "");
    texts
}

#[test]
fn every_layer_and_blob_is_named_once() {
    for net in [lenet(), inceptions()] {
        let texts = texts(&svg(&net, &|_| Some(vec![7, 8])));
        let count = |wanted: &str| texts.iter().filter(|text| *text == wanted).count();
        let mut blobs = HashSet::new();
        for layer in &net.layers {
            assert_eq!(count(&layer.name), 1, "{}", layer.name);
            blobs.extend(&layer.tops);
        }
        for blob in blobs {
            assert_eq!(count(&format!("{blob}  7 × 8")), 1, "{blob}");
        }
    }
}

#[test]
fn layers_say_what_sets_them_apart() {
    let texts = texts(&svg(&inceptions(), &lenet_shapes));
    for about in [
        "MemoryData batch 64",
        "Convolution 64 × 7×7 /1 pad 3",
        "Convolution 128 × 3×3 /1 pad 1",
        "Pooling max 3×3 /1 pad 1",
        "LRN 5 across channels",
        "InnerProduct 10",
        "Concat axis 1",
        "SoftmaxWithLoss weight 0.3",
        "SoftmaxWithLoss",
        "data  64 × 1 × 28 × 28",
        "train",
    ] {
        assert!(texts.iter().any(|text| text == about), "{about} is not in {texts:?}");
    }
}

#[test]
fn in_place_layers_hang_below_the_layer_that_they_follow() {
    let net = lenet();
    let (stacks, wires) = stack_layers(&net, &lenet_shapes);
    let ip1 = stacks.iter().find(|stack| stack.rows[0].name == "ip1").unwrap();
    let names: Vec<&str> = ip1.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["ip1", "relu1", "drop1"]);
    assert_eq!(stacks.len(), net.layers.len() - 2);
    // Nothing but ip2 reads from it.
    let from_ip1: Vec<_> = wires
        .iter()
        .filter(|wire| stacks[wire.from].rows[0].name == "ip1")
        .collect();
    assert_eq!(from_ip1.len(), 1);
    assert_eq!(from_ip1[0].to.len(), 1);
}

#[test]
fn a_drawing_is_the_same_each_time() {
    let net = inceptions();
    assert_eq!(svg(&net, &lenet_shapes), svg(&net, &lenet_shapes));
}

#[test]
fn names_cannot_break_the_file() {
    let name = "<a & \"b\">\u{1}\n";
    let net = spec(name, vec![data(), layer("ReLU", name, &["data"], &["]]>"])]);
    let texts = texts(&svg(&net, &|_| None));
    assert_eq!(
        texts
            .iter()
            .filter(|text| *text == "&lt;a &amp; &quot;b&quot;&gt;\u{fffd}")
            .count(),
        2
    );
    assert!(texts.iter().any(|text| text == "]]&gt;"));
}

#[test]
fn nets_with_mistakes_are_drawn_too() {
    // Blobs that nobody writes, that are written later, twice, or read by the layer that writes them.
    let layers = vec![
        layer("ReLU", "orphan", &["nowhere"], &["a"]),
        layer("ReLU", "before", &["later"], &["b"]),
        layer("ReLU", "writer", &["b"], &["later"]),
        layer("ReLU", "again", &["a"], &["later"]),
        layer("Eltwise", "itself", &["self", "self"], &["self"]),
        layer("ReLU", "in-place", &["thin-air"], &["thin-air"]),
        layer("Silence", "silence", &["later", "self"], &[]),
        layer("EuclideanLoss", "loss", &["a", "b"], &[]),
    ];
    let texts = texts(&svg(&spec("mistakes", layers), &|_| Some(vec![])));
    for name in [
        "orphan", "before", "writer", "again", "itself", "in-place", "silence", "loss",
    ] {
        assert_eq!(texts.iter().filter(|text| *text == name).count(), 1, "{name}");
    }
}
