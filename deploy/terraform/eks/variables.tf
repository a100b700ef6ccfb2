variable "name" {
  description = "Name of the cluster, and the first part of every other name."
  type        = string
  default     = "mizzen"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "The name has 3 to 32 characters: lower-case letters, digits and hyphens, a letter first."
  }
}

variable "region" {
  description = "AWS region."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "The region is written as in eu-central-1."
  }
}

variable "tags" {
  description = "More tags on every resource."
  type        = map(string)
  default     = {}
}

variable "kubernetes_version" {
  description = "Minor version of Kubernetes. Mizzen's chart is checked against 1.32 to 1.37."
  type        = string
  default     = "1.35"

  validation {
    condition     = can(regex("^1\\.3[2-7]$", var.kubernetes_version))
    error_message = "The version is one of 1.32 to 1.37, and one that EKS offers."
  }
}

variable "api_access_cidrs" {
  description = "Addresses from which the Kubernetes API can be reached from outside. Empty: only from the network."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.api_access_cidrs : can(cidrnetmask(cidr))])
    error_message = "Each entry is an IPv4 range such as 203.0.113.7/32."
  }
}

variable "vpc_cidr" {
  description = "Address range of the network."
  type        = string
  default     = "10.40.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && tonumber(split("/", var.vpc_cidr)[1]) <= 18
    error_message = "The range is an IPv4 range of /18 or larger: pods get addresses of it."
  }
}

variable "num_zones" {
  description = "Availability zones to spread over."
  type        = number
  default     = 2

  validation {
    condition     = contains([2, 3], var.num_zones)
    error_message = "EKS needs 2 zones; 3 are the most that are set up here."
  }
}

variable "nat_per_zone" {
  description = "A NAT gateway in each zone instead of one for all: costs more, and outlives a zone."
  type        = bool
  default     = false
}

variable "cpu_nodes" {
  description = "Nodes for Ray's heads, CPU workers and everything else in the cluster."
  type = object({
    instance_types = optional(list(string), ["m7i.2xlarge"])
    min            = optional(number, 2)
    max            = optional(number, 6)
    disk_gib       = optional(number, 100)
  })
  default = {}

  validation {
    condition     = var.cpu_nodes.min >= 1 && var.cpu_nodes.max >= var.cpu_nodes.min
    error_message = "There is at least one CPU node, and max is not below min."
  }
}

variable "gpu_nodes" {
  description = "Nodes with NVIDIA GPUs. They have the taint nvidia.com/gpu, which the chart's GPU pods tolerate."
  type = object({
    instance_types = optional(list(string), ["g6.4xlarge"])
    min            = optional(number, 0)
    max            = optional(number, 2)
    disk_gib       = optional(number, 200)
    spot           = optional(bool, false)
  })
  default = {}

  validation {
    condition     = var.gpu_nodes.min >= 0 && var.gpu_nodes.max >= max(1, var.gpu_nodes.min)
    error_message = "min is 0 or more, max is 1 or more and not below min."
  }
}

variable "bucket" {
  description = "Name of the store's bucket. Empty: name, account and region make one."
  type        = string
  default     = ""
}

variable "keep_old_objects_days" {
  description = "How long overwritten and deleted objects of the store can be brought back."
  type        = number
  default     = 30

  validation {
    condition     = var.keep_old_objects_days >= 1
    error_message = "At least one day."
  }
}

variable "namespace" {
  description = "Namespace of the Helm release."
  type        = string
  default     = "mizzen"
}

variable "service_accounts" {
  description = "Service accounts in that namespace that may use the store: those of the chart that have its role."
  type        = list(string)
  default     = ["mizzen"]

  validation {
    condition     = length(var.service_accounts) > 0 && alltrue([for name in var.service_accounts : !strcontains(name, "*")])
    error_message = "At least one, each by its full name."
  }
}

variable "destroy_data" {
  description = "Let `terraform destroy` delete the store with all models in it, and the images."
  type        = bool
  default     = false
}
