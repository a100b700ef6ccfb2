# Two groups of nodes. EKS keeps their number where it is told: `desired_size` is the start, and belongs to an
# autoscaler, or to `aws eks update-nodegroup-config`, afterwards.
resource "aws_iam_role" "nodes" {
  name = "${var.name}-nodes"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "nodes" {
  for_each = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])

  role       = aws_iam_role.nodes.name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/${each.key}"
}

locals {
  disk_gib = { cpu = var.cpu_nodes.disk_gib, gpu = var.gpu_nodes.disk_gib }
}

# Encrypted disks; and the instance's own credentials out of the reach of pods, whose requests come one hop further.
resource "aws_launch_template" "nodes" {
  for_each = local.disk_gib

  name = "${var.name}-${each.key}"

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = each.value
      encrypted             = true
      delete_on_termination = true
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${var.name}-${each.key}" }
  }
}

resource "aws_eks_node_group" "cpu" {
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "cpu"
  node_role_arn   = aws_iam_role.nodes.arn
  subnet_ids      = [for subnet in aws_subnet.private : subnet.id]
  ami_type        = "AL2023_x86_64_STANDARD"
  instance_types  = var.cpu_nodes.instance_types
  labels          = { "mizzen.dev/nodes" = "cpu" }

  scaling_config {
    min_size     = var.cpu_nodes.min
    max_size     = var.cpu_nodes.max
    desired_size = var.cpu_nodes.min
  }

  launch_template {
    id      = aws_launch_template.nodes["cpu"].id
    version = aws_launch_template.nodes["cpu"].latest_version
  }

  update_config {
    max_unavailable = 1
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size]
  }

  depends_on = [aws_iam_role_policy_attachment.nodes, aws_eks_addon.vpc_cni]
}

resource "aws_eks_node_group" "gpu" {
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "gpu"
  node_role_arn   = aws_iam_role.nodes.arn
  subnet_ids      = [for subnet in aws_subnet.private : subnet.id]
  ami_type        = "AL2023_x86_64_NVIDIA"
  instance_types  = var.gpu_nodes.instance_types
  capacity_type   = var.gpu_nodes.spot ? "SPOT" : "ON_DEMAND"
  labels          = { "mizzen.dev/nodes" = "gpu" }

  scaling_config {
    min_size     = var.gpu_nodes.min
    max_size     = var.gpu_nodes.max
    desired_size = var.gpu_nodes.min
  }

  launch_template {
    id      = aws_launch_template.nodes["gpu"].id
    version = aws_launch_template.nodes["gpu"].latest_version
  }

  taint {
    key    = "nvidia.com/gpu"
    value  = "present"
    effect = "NO_SCHEDULE"
  }

  update_config {
    max_unavailable = 1
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size]
  }

  depends_on = [aws_iam_role_policy_attachment.nodes, aws_eks_addon.vpc_cni]
}
