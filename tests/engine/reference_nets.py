"""The published networks once more, as plain functions of a state dict, written independently.

Slow, literal and float64: loops over heads, explicit softmax, einsum. A network of the package and
its function here must agree on the same random tensors.
"""

import math
import re

import torch
import torch.nn.functional as F


def conv(s, name, x, stride=1, padding=0, groups=1):
    return F.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), stride, padding, 1, groups)


def group_norm(s, name, x, groups):
    parts = x.reshape(len(x), groups, -1)
    mean, var = parts.mean(2, keepdim=True), parts.var(2, keepdim=True, unbiased=False)
    x = ((parts - mean) / (var + 1e-5).sqrt()).reshape(x.shape)
    return x * s[f"{name}.weight"][:, None, None] + s[f"{name}.bias"][:, None, None]


def linear(s, name, x):
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def softmax(x, dim):
    e = (x - x.amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


def silu(x):
    return x / (1 + (-x).exp())


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


# RSCD ---------------------------------------------------------------------------------------------


def rscd_block(s, p, x, temb):
    h = conv(s, f"{p}.ds_conv", x, padding=3, groups=x.shape[1])
    if temb is not None:
        h = h + linear(s, f"{p}.mlp.1", gelu(temb))[:, :, None, None]
    h = group_norm(s, f"{p}.net.0", h, 1)
    h = group_norm(s, f"{p}.net.3", gelu(conv(s, f"{p}.net.1", h, padding=1)), 1)
    h = conv(s, f"{p}.net.4", h, padding=1)
    return h + (conv(s, f"{p}.res_conv", x) if f"{p}.res_conv.weight" in s else x)


def rscd_attention(s, p, x, linear_cost):
    b, _, height, width = x.shape
    qkv = conv(s, f"{p}.fn.fn.to_qkv", group_norm(s, f"{p}.fn.norm", x, 1))
    qkv = qkv.reshape(b, 3, 4, 32, height * width)
    heads = []
    for h in range(4):
        q, k, v = qkv[:, 0, h], qkv[:, 1, h], qkv[:, 2, h]  # (B, 32, N)
        if linear_cost:
            context = torch.einsum("bdn,ben->bde", softmax(k, 2), v)
            heads.append(torch.einsum("bde,bdn->ben", context, softmax(q, 1) / math.sqrt(32)))
        else:
            weights = softmax(torch.einsum("bdi,bdj->bij", q, k) / math.sqrt(32), 2)
            heads.append(torch.einsum("bij,bdj->bdi", weights, v))
    y = torch.cat(heads, 1).reshape(b, 128, height, width)
    if not linear_cost:
        return x + conv(s, f"{p}.fn.fn.to_out", y)
    return x + group_norm(s, f"{p}.fn.fn.to_out.1", conv(s, f"{p}.fn.fn.to_out.0", y), 1)


def rscd(s, x, t):
    dim = s["time_mlp.1.weight"].shape[1]
    half = dim // 2
    angles = t[:, None] * torch.tensor([10000 ** (-k / (half - 1)) for k in range(half)]).to(x)
    temb = torch.cat([angles.sin(), angles.cos()], 1)
    temb = linear(s, "time_mlp.3", gelu(linear(s, "time_mlp.1", temb)))
    x, skips = conv(s, "init_conv", x, padding=3), []
    levels = 1 + max(int(k.split(".")[1]) for k in s if k.startswith("downs"))
    for i in range(levels):
        x = rscd_block(s, f"downs.{i}.1", rscd_block(s, f"downs.{i}.0", x, temb), temb)
        x = rscd_attention(s, f"downs.{i}.2", x, True)
        skips.append(x)
        if i < levels - 1:
            x = conv(s, f"downs.{i}.3", x, 2, 1)
    x = rscd_attention(s, "mid_attn", rscd_block(s, "mid_block1", x, temb), False)
    x = rscd_block(s, "mid_block2", x, temb)
    for i in range(levels - 1):
        x = torch.cat([x, skips[levels - 1 - i]], 1)
        x = rscd_block(s, f"ups.{i}.1", rscd_block(s, f"ups.{i}.0", x, temb), temb)
        x = rscd_attention(s, f"ups.{i}.2", x, True)
        x = F.conv_transpose2d(x, s[f"ups.{i}.3.weight"], s[f"ups.{i}.3.bias"], 2, 1)
    return conv(s, "final_conv.1", rscd_block(s, "final_conv.0", x, None))


# ADM ----------------------------------------------------------------------------------------------


def adm_layer(s, p, x, emb, groups, head):
    """Whatever layer has tensors below prefix `p`."""
    if f"{p}.op.weight" in s:
        return conv(s, f"{p}.op", x, 2, 1)
    if f"{p}.conv.weight" in s:
        return conv(s, f"{p}.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3), 1, 1)
    if f"{p}.qkv.weight" in s:
        b, c = x.shape[:2]
        n = group_norm(s, f"{p}.norm", x, groups).reshape(b, c, -1)
        qkv = torch.einsum("oc,bcn->bon", s[f"{p}.qkv.weight"][:, :, 0], n)
        qkv = qkv + s[f"{p}.qkv.bias"][:, None]
        parts = []
        for h in range(c // head):
            q, k, v = qkv[:, 3 * head * h : 3 * head * (h + 1)].split(head, 1)
            weights = softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(head), 2)
            parts.append(torch.einsum("bij,bcj->bci", weights, v))
        y = torch.einsum("oc,bcn->bon", s[f"{p}.proj_out.weight"][:, :, 0], torch.cat(parts, 1))
        return x + (y + s[f"{p}.proj_out.bias"][:, None]).reshape(x.shape)
    if f"{p}.in_layers.0.weight" not in s:
        return conv(s, p, x, padding=1)
    h = conv(s, f"{p}.in_layers.2", silu(group_norm(s, f"{p}.in_layers.0", x, groups)), padding=1)
    e = linear(s, f"{p}.emb_layers.1", silu(emb))[:, :, None, None]
    if e.shape[1] == 2 * h.shape[1]:
        scale, shift = e.chunk(2, 1)
        h = group_norm(s, f"{p}.out_layers.0", h, groups) * (1 + scale) + shift
    else:
        h = group_norm(s, f"{p}.out_layers.0", h + e, groups)
    h = conv(s, f"{p}.out_layers.3", silu(h), padding=1)
    skip = f"{p}.skip_connection"
    return h + (conv(s, skip, x) if f"{skip}.weight" in s else x)


def adm(s, x, t, groups, head):
    def through(prefix, x):
        numbers = {m[1] for k in s if (m := re.match(re.escape(prefix) + r"\.(\d+)\.", k))}
        for j in sorted(map(int, numbers)):
            x = adm_layer(s, f"{prefix}.{j}", x, emb, groups, head)
        return x

    width = s["time_embed.0.weight"].shape[1]
    half = width // 2
    angles = t[:, None] * torch.tensor([10000 ** (-k / half) for k in range(half)]).to(x)
    emb = linear(s, "time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
    emb = linear(s, "time_embed.2", silu(emb))
    count = {k.split(".")[1] for k in s if k.startswith("input_blocks")}
    skips = []
    for i in range(len(count)):
        x = through(f"input_blocks.{i}", x)
        skips.append(x)
    x = through("middle_block", x)
    for i in range(len(count)):
        x = through(f"output_blocks.{i}", torch.cat([x, skips.pop()], 1))
    return conv(s, "out.2", silu(group_norm(s, "out.0", x, groups)), padding=1)


# EDM2 ---------------------------------------------------------------------------------------------


def unit(w):
    norm = w.flatten(1).norm(dim=1).reshape(-1, *[1] * (w.ndim - 1))
    return w / (1e-4 + norm / math.sqrt(w[0].numel())) / math.sqrt(w[0].numel())


def mp_conv(s, name, x):
    w = unit(s[f"{name}.weight"])
    return F.conv2d(x, w, padding=w.shape[2] // 2)


def rms(x, dim):
    return x / (1e-4 + (x**2).mean(dim, keepdim=True).sqrt())


def mix(a, b):
    return (0.7 * a + 0.3 * b) / math.sqrt(0.7**2 + 0.3**2)


def edm2_block(s, p, x, emb, head):
    if p.startswith("enc"):
        x = rms(mp_conv(s, f"{p}.conv_skip", x) if f"{p}.conv_skip.weight" in s else x, 1)
    y = mp_conv(s, f"{p}.conv_res0", silu(x) / 0.596)
    scale = emb @ unit(s[f"{p}.emb_linear.weight"]).T * s[f"{p}.emb_gain"] + 1
    y = mp_conv(s, f"{p}.conv_res1", silu(y * scale[:, :, None, None]) / 0.596)
    if p.startswith("dec") and f"{p}.conv_skip.weight" in s:
        x = mp_conv(s, f"{p}.conv_skip", x)
    x = mix(x, y)
    if f"{p}.attn_qkv.weight" in s:
        b, c, height, width = x.shape
        qkv = mp_conv(s, f"{p}.attn_qkv", x).reshape(b, c // head, head, 3, height * width)
        parts = []
        for h in range(c // head):
            q, k, v = (rms(qkv[:, h, :, i], 1) for i in range(3))
            weights = softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(head), 2)
            parts.append(torch.einsum("bij,bcj->bci", weights, v))
        x = mix(x, mp_conv(s, f"{p}.attn_proj", torch.cat(parts, 1).reshape(x.shape)))
    return x.clamp(-256, 256)


def edm2(s, x, label, head):
    emb = math.sqrt(2) * (label[:, None] * s["emb_fourier.freqs"] + s["emb_fourier.phases"]).cos()
    emb = silu(emb @ unit(s["emb_noise.weight"]).T) / 0.596
    x, skips = torch.cat([x, torch.ones_like(x[:, :1])], 1), []
    for p in dict.fromkeys(".".join(k.split(".")[:2]) for k in s if k.startswith("enc.")):
        if p.endswith("_down"):
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        x = mp_conv(s, p, x) if p.endswith("_conv") else edm2_block(s, p, x, emb, head)
        skips.append(x)
    for p in dict.fromkeys(".".join(k.split(".")[:2]) for k in s if k.startswith("dec.")):
        if p.endswith("_up"):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if "_block" in p:
            other = skips.pop()
            n, m = x.shape[1], other.shape[1]
            c = math.sqrt((n + m) / 0.5)
            x = torch.cat([x * c / math.sqrt(n) / 2, other * c / math.sqrt(m) / 2], 1)
        x = edm2_block(s, p, x, emb, head)
    return mp_conv(s, "out_conv", x) * s["out_gain"]


# Metrics ------------------------------------------------------------------------------------------


def lpips(s, a, b):
    total = torch.zeros(len(a)).to(a)
    shift = torch.tensor([-0.030, -0.088, -0.188]).to(a).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).to(a).reshape(1, 3, 1, 1)
    x = torch.cat([(a - shift) / scale, (b - shift) / scale])
    for k, (name, stride, padding) in enumerate(
        [("0", 4, 2), ("3", 1, 2), ("6", 1, 1), ("8", 1, 1), ("10", 1, 1)]
    ):
        if k in (1, 2):
            x = F.max_pool2d(x, 3, 2)
        x = conv(s, f"features.{name}", x, stride, padding).clamp(min=0)
        f, g = (x / (x.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
        weight = s[f"lin{k}.model.1.weight"].reshape(1, -1, 1, 1)
        total = total + ((f - g) ** 2 * weight).sum(1).mean((1, 2))
    return total


def inception(s, x):
    """Szegedy et al. 2015, figures 5 to 7, with the pooling of the Frechet distance."""

    def c(name, x, stride=1, padding=(0, 0)):
        x = conv(s, f"{name}.conv", x, stride, padding)
        w, b, mean, var = (
            s[f"{name}.bn.{k}"][:, None, None]
            for k in ("weight", "bias", "running_mean", "running_var")
        )
        return ((x - mean) / (var + 0.001).sqrt() * w + b).clamp(min=0)

    def average(x):  # only pixels inside the image count
        ones = torch.ones_like(x[:, :1])
        return F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(ones, 3, 1, 1)

    def double(p, x, stride=1, padding=(1, 1)):
        y = c(f"{p}.branch3x3dbl_2", c(f"{p}.branch3x3dbl_1", x), 1, (1, 1))
        return c(f"{p}.branch3x3dbl_3", y, stride, padding)

    def a(p, x):
        five = c(f"{p}.branch5x5_2", c(f"{p}.branch5x5_1", x), 1, (2, 2))
        pool = c(f"{p}.branch_pool", average(x))
        return torch.cat([c(f"{p}.branch1x1", x), five, double(p, x), pool], 1)

    def seven(p, x):
        y = c(f"{p}.branch7x7_2", c(f"{p}.branch7x7_1", x), 1, (0, 3))
        y = c(f"{p}.branch7x7_3", y, 1, (3, 0))
        z = c(f"{p}.branch7x7dbl_1", x)
        for k in (2, 3, 4, 5):
            z = c(f"{p}.branch7x7dbl_{k}", z, 1, (3, 0) if k % 2 == 0 else (0, 3))
        return torch.cat([c(f"{p}.branch1x1", x), y, z, c(f"{p}.branch_pool", average(x))], 1)

    def wide(p, x, pooled):
        y = c(f"{p}.branch3x3_1", x)
        z = c(f"{p}.branch3x3dbl_2", c(f"{p}.branch3x3dbl_1", x), 1, (1, 1))
        parts = [c(f"{p}.branch1x1", x)]
        for stem, v in (("branch3x3_2", y), ("branch3x3dbl_3", z)):
            parts += [c(f"{p}.{stem}a", v, 1, (0, 1)), c(f"{p}.{stem}b", v, 1, (1, 0))]
        return torch.cat([*parts, c(f"{p}.branch_pool", pooled)], 1)

    x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
    x = c("Conv2d_2a_3x3", c("Conv2d_1a_3x3", x, 2))
    x = F.max_pool2d(c("Conv2d_2b_3x3", x, 1, (1, 1)), 3, 2)
    x = F.max_pool2d(c("Conv2d_4a_3x3", c("Conv2d_3b_1x1", x)), 3, 2)
    for p in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = a(p, x)
    halved = c("Mixed_6a.branch3x3", x, 2)
    x = torch.cat([halved, double("Mixed_6a", x, 2, (0, 0)), F.max_pool2d(x, 3, 2)], 1)
    for p in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = seven(p, x)
    y = c("Mixed_7a.branch3x3_2", c("Mixed_7a.branch3x3_1", x), 2)
    z = c("Mixed_7a.branch7x7x3_2", c("Mixed_7a.branch7x7x3_1", x), 1, (0, 3))
    z = c("Mixed_7a.branch7x7x3_4", c("Mixed_7a.branch7x7x3_3", z, 1, (3, 0)), 2)
    x = torch.cat([y, z, F.max_pool2d(x, 3, 2)], 1)
    x = wide("Mixed_7b", x, average(x))
    x = wide("Mixed_7c", x, F.max_pool2d(x, 3, 1, 1))
    return x.mean((2, 3))
