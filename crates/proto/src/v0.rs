//! V0 → V1: `layers { layer { type: "conv" … } }` becomes `layers { type: CONVOLUTION convolution_param { … } }`.

use std::collections::HashMap;

use crate::{
    caffe::{NetParameter, V1LayerParameter, pooling_parameter, v0_layer_parameter, v1_layer_parameter::LayerType},
    upgrade::UpgradeError,
};

/// Upgrades all of a net's layers, each of which must be in the V0 form.
pub(crate) fn upgrade(net: &mut NetParameter) -> Result<(), UpgradeError> {
    if let Some(other) = net.layers.iter().find(|layer| layer.layer.is_none()) {
        return Err(UpgradeError::MixedForms {
            layer: other.name().to_owned(),
        });
    }
    fold_padding(net)?;
    net.layers.iter_mut().try_for_each(upgrade_layer)
}

/// Padding was a layer of its own; the convolution or pooling that reads from it does it now.
fn fold_padding(net: &mut NetParameter) -> Result<(), UpgradeError> {
    struct Padding {
        name: String,
        pad: u32,
        bottoms: Vec<String>,
        tops: usize,
    }
    // The padding layer that made each blob, if it was one.
    let mut makers: HashMap<String, Option<usize>> = net.input.iter().map(|input| (input.clone(), None)).collect();
    let mut paddings: Vec<Padding> = Vec::new();
    let mut kept = Vec::new();
    for mut layer in std::mem::take(&mut net.layers) {
        let v0 = layer.layer.get_or_insert_default();
        let name = v0.name().to_owned();
        let bottoms = layer.bottom.len();
        for bottom in &mut layer.bottom {
            let padding = match makers.get(bottom) {
                Some(None) => continue,
                Some(Some(padding)) => &paddings[*padding],
                None => {
                    return Err(UpgradeError::UnknownBottom {
                        layer: name,
                        blob: bottom.clone(),
                    });
                }
            };
            if !matches!(v0.r#type(), "conv" | "pool") || bottoms != 1 {
                return Err(UpgradeError::PaddingReader {
                    layer: name,
                    padding: padding.name.clone(),
                });
            }
            let ([source], 1) = (padding.bottoms.as_slice(), padding.tops) else {
                return Err(UpgradeError::PaddingArity {
                    layer: padding.name.clone(),
                    bottoms: padding.bottoms.len(),
                    tops: padding.tops,
                });
            };
            v0.pad = Some(padding.pad);
            *bottom = source.clone();
        }
        let is_padding = v0.r#type() == "padding";
        let maker = is_padding.then_some(paddings.len());
        makers.extend(layer.top.iter().map(|top| (top.clone(), maker)));
        if is_padding {
            paddings.push(Padding {
                name,
                pad: v0.pad(),
                tops: layer.top.len(),
                bottoms: layer.bottom,
            });
        } else {
            kept.push(layer);
        }
    }
    net.layers = kept;
    Ok(())
}

/// A field that a V0 value goes into: one value, or a list that it is added to.
trait Slot<T> {
    fn put(&mut self, value: T);
}

impl<T> Slot<T> for Option<T> {
    fn put(&mut self, value: T) {
        *self = Some(value);
    }
}

impl<T> Slot<T> for Vec<T> {
    fn put(&mut self, value: T) {
        self.push(value);
    }
}

fn upgrade_layer(layer: &mut V1LayerParameter) -> Result<(), UpgradeError> {
    let Some(mut v0) = layer.layer.take() else {
        return Ok(());
    };
    let name = v0.name().to_owned();
    let kind = v0.r#type().to_owned();
    if v0.r#type.is_some() {
        let layer_type = v1_type(&kind).ok_or_else(|| UpgradeError::UnknownV0Type {
            layer: name.clone(),
            type_name: kind.clone(),
        })?;
        layer.r#type = Some(layer_type as i32);
    }
    layer.name = v0.name.take();
    layer.blobs = std::mem::take(&mut v0.blobs);
    layer.blobs_lr = std::mem::take(&mut v0.blobs_lr);
    layer.weight_decay = std::mem::take(&mut v0.weight_decay);

    // Where a field goes for each type that takes it; with any other type it is an error.
    macro_rules! go {
        ($field:ident => $($kind:literal: $param:ident.$target:ident),*) => {
            if let Some(value) = v0.$field.take() {
                match kind.as_str() {
                    $($kind => layer.$param.get_or_insert_default().$target.put(value),)*
                    _ => return Err(misplaced(name, kind, stringify!($field))),
                }
            }
        };
    }
    go!(num_output => "conv": convolution_param.num_output, "innerproduct": inner_product_param.num_output);
    go!(biasterm => "conv": convolution_param.bias_term, "innerproduct": inner_product_param.bias_term);
    go!(weight_filler => "conv": convolution_param.weight_filler, "innerproduct": inner_product_param.weight_filler);
    go!(bias_filler => "conv": convolution_param.bias_filler, "innerproduct": inner_product_param.bias_filler);
    go!(pad => "conv": convolution_param.pad, "pool": pooling_param.pad);
    go!(kernelsize => "conv": convolution_param.kernel_size, "pool": pooling_param.kernel_size);
    go!(group => "conv": convolution_param.group);
    go!(stride => "conv": convolution_param.stride, "pool": pooling_param.stride);
    v0.pool = v0.pool.map(pool_method);
    go!(pool => "pool": pooling_param.pool);
    go!(dropout_ratio => "dropout": dropout_param.dropout_ratio);
    go!(local_size => "lrn": lrn_param.local_size);
    go!(alpha => "lrn": lrn_param.alpha);
    go!(beta => "lrn": lrn_param.beta);
    go!(k => "lrn": lrn_param.k);
    go!(source => "data": data_param.source, "hdf5_data": hdf5_data_param.source, "images": image_data_param.source,
        "window_data": window_data_param.source, "infogain_loss": infogain_loss_param.source);
    go!(batchsize => "data": data_param.batch_size, "hdf5_data": hdf5_data_param.batch_size,
        "images": image_data_param.batch_size, "window_data": window_data_param.batch_size);
    go!(rand_skip => "data": data_param.rand_skip, "images": image_data_param.rand_skip);
    go!(shuffle_images => "images": image_data_param.shuffle);
    go!(concat_dim => "concat": concat_param.concat_dim);
    go!(det_fg_threshold => "window_data": window_data_param.fg_threshold);
    go!(det_bg_threshold => "window_data": window_data_param.bg_threshold);
    go!(det_fg_fraction => "window_data": window_data_param.fg_fraction);
    go!(det_context_pad => "window_data": window_data_param.context_pad);
    go!(det_crop_mode => "window_data": window_data_param.crop_mode);
    // Caffe's own upgrade knows no layer that takes these two.
    for (field, is_set) in [
        ("new_num", v0.new_num.is_some()),
        ("new_channels", v0.new_channels.is_some()),
    ] {
        if is_set {
            return Err(misplaced(name, kind, field));
        }
    }
    for (field, size) in [("new_height", v0.new_height), ("new_width", v0.new_width)] {
        let Some(size) = size else { continue };
        if kind != "images" {
            return Err(misplaced(name, kind, field));
        }
        let pixels = u32::try_from(size).map_err(|_| UpgradeError::NegativeSize {
            layer: name.clone(),
            field,
            size,
        })?;
        let images = layer.image_data_param.get_or_insert_default();
        match field {
            "new_height" => images.new_height = Some(pixels),
            _ => images.new_width = Some(pixels),
        }
    }
    if v0.hdf5_output_param.is_some() {
        if kind != "hdf5_output" {
            return Err(misplaced(name, kind, "hdf5_output_param"));
        }
        layer.hdf5_output_param = v0.hdf5_output_param;
    }
    if v0.scale.is_some() || v0.meanfile.is_some() || v0.cropsize.is_some() || v0.mirror.is_some() {
        let transform = layer.transform_param.get_or_insert_default();
        transform.scale = v0.scale;
        transform.mean_file = v0.meanfile;
        transform.crop_size = v0.cropsize;
        transform.mirror = v0.mirror;
    }
    Ok(())
}

fn misplaced(layer: String, type_name: String, field: &'static str) -> UpgradeError {
    UpgradeError::MisplacedV0Field {
        layer,
        type_name,
        field,
    }
}

fn pool_method(v0: i32) -> i32 {
    use pooling_parameter::PoolMethod as New;
    use v0_layer_parameter::PoolMethod as Old;
    let method = match Old::try_from(v0) {
        Ok(Old::Ave) => New::Ave,
        Ok(Old::Stochastic) => New::Stochastic,
        _ => New::Max,
    };
    method as i32
}

fn v1_type(v0_type: &str) -> Option<LayerType> {
    Some(match v0_type {
        "accuracy" => LayerType::Accuracy,
        "bnll" => LayerType::Bnll,
        "concat" => LayerType::Concat,
        "conv" => LayerType::Convolution,
        "data" => LayerType::Data,
        "dropout" => LayerType::Dropout,
        "euclidean_loss" => LayerType::EuclideanLoss,
        "flatten" => LayerType::Flatten,
        "hdf5_data" => LayerType::Hdf5Data,
        "hdf5_output" => LayerType::Hdf5Output,
        "im2col" => LayerType::Im2col,
        "images" => LayerType::ImageData,
        "infogain_loss" => LayerType::InfogainLoss,
        "innerproduct" => LayerType::InnerProduct,
        "lrn" => LayerType::Lrn,
        "multinomial_logistic_loss" => LayerType::MultinomialLogisticLoss,
        "pool" => LayerType::Pooling,
        "relu" => LayerType::Relu,
        "sigmoid" => LayerType::Sigmoid,
        "softmax" => LayerType::Softmax,
        "softmax_loss" => LayerType::SoftmaxLoss,
        "split" => LayerType::Split,
        "tanh" => LayerType::Tanh,
        "window_data" => LayerType::WindowData,
        _ => return None,
    })
}
