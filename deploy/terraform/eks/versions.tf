# Mizzen on AWS: a network, an EKS cluster with CPU and GPU nodes, a bucket for the store, a registry for the image.
# Plain resources of one provider; no modules. `terraform init && terraform apply`, then `terraform output`.
#
# The state lies in this folder. For a team, add a `backend "s3"` block with `use_lockfile = true` and a bucket that
# is not the one below.
terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = merge({ project = "mizzen", cluster = var.name }, var.tags)
  }
}

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}
