//! What the golden files do not show: weights, less common layers, and files that have no current form.

use prost::Message;
use sparknet_proto::caffe::{BlobProto, NetParameter, SolverParameter, V0LayerParameter, V1LayerParameter};
use sparknet_proto::{text, upgrade};

fn net(input: &str) -> NetParameter {
    text::parse("test.prototxt", input).unwrap_or_else(|error| panic!("{error}"))
}

fn upgraded(input: &str) -> NetParameter {
    upgrade::net(net(input)).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(input: &str) -> String {
    upgrade::net(net(input)).unwrap_err().to_string()
}

#[test]
fn a_current_net_stays_as_it_is() {
    let current = net(
        "name: 'n' state { level: 1 } layer { name: 'a' type: 'Data' data_param { scale: 2 } \
                       param { lr_mult: 1 } param {} } layer { type: 'BatchNorm' param { lr_mult: 1 } }",
    );
    assert_eq!(upgrade::net(current.clone()).unwrap(), current);
    let solver: SolverParameter = text::parse("", "net: 'n' type: 'Adam' solver_mode: CPU").unwrap();
    assert_eq!(upgrade::solver(solver.clone()).unwrap(), solver);
}

#[test]
fn upgrading_twice_is_upgrading_once() {
    let once = upgraded(
        "input: 'data' input_dim: [1, 3, 8, 8] layers { name: 'c' type: CONVOLUTION bottom: 'data' \
                         top: 'c' blobs_lr: 1 } layers { name: 'r' type: RELU bottom: 'c' top: 'c' }",
    );
    assert_eq!(upgrade::net(once.clone()).unwrap(), once);
}

#[test]
fn weights_keep_their_blobs() {
    let blob = |value: f32| BlobProto {
        data: vec![value; 3],
        num: Some(1),
        ..Default::default()
    };
    let v1 = NetParameter {
        input: vec!["data".to_owned()],
        layers: vec![V1LayerParameter {
            name: Some("conv".to_owned()),
            r#type: Some(4),
            blobs: vec![blob(1.0), blob(2.0)],
            ..Default::default()
        }],
        ..Default::default()
    };
    let layer = &upgrade::net(v1).unwrap().layer[0];
    assert_eq!((layer.name(), layer.r#type()), ("conv", "Convolution"));
    assert_eq!(layer.blobs, [blob(1.0), blob(2.0)]);

    let v0 = NetParameter {
        layers: vec![V1LayerParameter {
            layer: Some(V0LayerParameter {
                name: Some("ip".to_owned()),
                r#type: Some("innerproduct".to_owned()),
                blobs: vec![blob(3.0)],
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let layer = &upgrade::net(NetParameter::decode(v0.encode_to_vec().as_slice()).unwrap())
        .unwrap()
        .layer[0];
    assert_eq!((layer.name(), layer.r#type()), ("ip", "InnerProduct"));
    assert_eq!(layer.blobs, [blob(3.0)]);
}

/// Every enum value of V1 has a type name that is its own.
#[test]
fn v1_types_have_names() {
    let numbers = 1..=41;
    let mut names: Vec<String> = Vec::new();
    for number in numbers.filter(|number| *number != 40) {
        let layer = V1LayerParameter {
            r#type: Some(number),
            ..Default::default()
        };
        let v1 = NetParameter {
            layers: vec![layer],
            ..Default::default()
        };
        match upgrade::net(v1) {
            Ok(net) => names.push(net.layer[0].r#type().to_owned()),
            Err(error) => assert_eq!(
                (number, error.to_string().as_str()),
                (
                    41,
                    "layer \"\" has the type number 41, which Caffe does not know: the file is damaged"
                )
            ),
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 39);
    assert!(!names.iter().any(String::is_empty));
}

#[test]
fn v0_data_layers() {
    let found = upgraded(
        "layers { layer { name: 'i' type: 'images' source: 's' batchsize: 8 new_height: 5 new_width: 6 \
           shuffle_images: true rand_skip: 3 cropsize: 4 } top: 'i' } \
         layers { layer { name: 'w' type: 'window_data' source: 's' batchsize: 9 det_fg_threshold: 0.6 \
           det_bg_threshold: 0.4 det_fg_fraction: 0.3 det_context_pad: 2 det_crop_mode: 'square' } top: 'w' } \
         layers { layer { name: 'h' type: 'hdf5_output' hdf5_output_param { file_name: 'f' } } bottom: 'w' } \
         layers { layer { name: 'p' type: 'padding' pad: 2 } bottom: 'i' top: 'p' } \
         layers { layer { name: 'q' type: 'pool' pool: AVE kernelsize: 3 } bottom: 'p' top: 'q' }",
    );
    let expected = net(
        "layer { name: 'i' type: 'ImageData' top: 'i' transform_param { crop_size: 4 } image_data_param { source: 's' \
           batch_size: 8 new_height: 5 new_width: 6 shuffle: true rand_skip: 3 } } \
         layer { name: 'w' type: 'WindowData' top: 'w' window_data_param { source: 's' batch_size: 9 fg_threshold: 0.6 \
           bg_threshold: 0.4 fg_fraction: 0.3 context_pad: 2 crop_mode: 'square' } } \
         layer { name: 'h' type: 'HDF5Output' bottom: 'w' hdf5_output_param { file_name: 'f' } } \
         layer { name: 'q' type: 'Pooling' bottom: 'i' top: 'q' pooling_param { pool: AVE kernel_size: 3 pad: 2 } }",
    );
    assert_eq!(found, expected);
}

/// Caffe moves the transform fields of all data layers once one of them has any.
#[test]
fn v1_transform_fields_are_moved() {
    let found = upgraded(
        "layers { type: IMAGE_DATA image_data_param { source: 's' scale: 2 mirror: true } transform_param { scale: 3 \
         crop_size: 4 } } layers { type: WINDOW_DATA } layers { type: RELU }",
    );
    let expected = net(
        "layer { type: 'ImageData' transform_param { scale: 2 mirror: true crop_size: 4 } image_data_param { source: 's' } } \
         layer { type: 'WindowData' transform_param {} window_data_param {} } layer { type: 'ReLU' }",
    );
    assert_eq!(found, expected);
    assert_eq!(upgraded("layers { type: DATA }"), net("layer { type: 'Data' }"));
}

#[test]
fn v1_lists_may_differ_in_length() {
    assert_eq!(
        upgraded("layers { param: 'w' blobs_lr: [1, 2, 3] weight_decay: 4 blob_share_mode: [STRICT, PERMISSIVE] }"),
        net(
            "layer { param { name: 'w' share_mode: STRICT lr_mult: 1 decay_mult: 4 } \
             param { share_mode: PERMISSIVE lr_mult: 2 } param { lr_mult: 3 } }"
        )
    );
}

#[test]
fn nets_inside_a_solver_are_upgraded() {
    let solver: SolverParameter = text::parse(
        "",
        "solver_type: NESTEROV net_param { layers { type: RELU } } train_net_param { layers { type: LRN } } \
         test_net_param { layers { type: MVN } }",
    )
    .unwrap();
    let expected = text::parse(
        "",
        "type: 'Nesterov' net_param { layer { type: 'ReLU' } } train_net_param { layer { type: 'LRN' } } \
         test_net_param { layer { type: 'MVN' } }",
    );
    assert_eq!(upgrade::solver(solver).unwrap(), expected.unwrap());
}

#[test]
fn solver_types() {
    for (old, new) in [
        ("SGD", "SGD"),
        ("NESTEROV", "Nesterov"),
        ("ADAGRAD", "AdaGrad"),
        ("RMSPROP", "RMSProp"),
        ("ADADELTA", "AdaDelta"),
        ("ADAM", "Adam"),
    ] {
        let solver: SolverParameter = text::parse("", &format!("solver_type: {old}")).unwrap();
        let solver = upgrade::solver(solver).unwrap();
        assert_eq!((solver.r#type(), solver.solver_type), (new, None));
    }
    let both: SolverParameter = text::parse("", "solver_type: SGD type: 'SGD'").unwrap();
    let error = upgrade::solver(both).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the solver has both `type` and the old `solver_type`: keep `type`"
    );
}

#[test]
fn what_has_no_current_form_is_said_in_a_sentence() {
    for (input, expected) in [
        (
            "layer {} layers {}",
            "the net has both `layer` and `layers`: write every layer as `layer`",
        ),
        (
            "layers { layer { name: 'a' } } layers { name: 'b' }",
            "layer \"b\" is in another of Caffe's old forms than the layers beside it: write every layer as `layer`",
        ),
        (
            "layers { layer { name: 'a' type: 'convolution' } }",
            "layer \"a\" has the type \"convolution\", which Caffe's first form did not have: see its spelling",
        ),
        (
            "layers { layer { name: 'a' type: 'relu' pad: 2 } }",
            "layer \"a\" has pad, which a \"relu\" layer of Caffe's first form does not take: remove it",
        ),
        (
            "layers { layer { name: 'a' type: 'images' new_width: -2 } }",
            "layer \"a\" has new_width: -2, which is below zero: give the size in pixels, or 0 to keep it",
        ),
        (
            "layers { layer { name: 'a' type: 'relu' } bottom: 'x' }",
            "layer \"a\" reads \"x\", which neither an input nor a layer before it makes: see its spelling",
        ),
        (
            "input: 'x' layers { layer { name: 'p' type: 'padding' pad: 1 } bottom: 'x' top: 'p' } \
             layers { layer { name: 'a' type: 'relu' } bottom: 'p' }",
            "layer \"a\" reads from the padding layer \"p\", which only a \"conv\" or \"pool\" layer with one bottom may \
             do: put pad into the layer that needs it",
        ),
        (
            "input: 'x' layers { layer { name: 'p' type: 'padding' pad: 1 } bottom: ['x', 'x'] top: 'p' } \
             layers { layer { name: 'a' type: 'conv' } bottom: 'p' }",
            "padding layer \"p\" has 2 bottoms and 1 tops: give it one of each",
        ),
        (
            "input: ['x', 'y'] input_dim: [1, 2, 3, 4]",
            "the net has 2 `input` but 4 `input_dim`: give four to each input (n, c, h, w)",
        ),
        (
            "input: ['x', 'y'] input_shape {}",
            "the net has 2 `input` but 1 `input_shape`: give one to each input",
        ),
        (
            "input: 'x'",
            "the input \"x\" has no shape: add `input_shape { dim: … }`, or use an Input layer",
        ),
        (
            "input_dim: 1",
            "the net has `input_dim` or `input_shape` but no `input`: add `input: \"data\"`",
        ),
    ] {
        assert_eq!(refused(input), expected, "{input}");
    }
}
