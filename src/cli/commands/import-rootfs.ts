/** What `varve import --rootfs` takes: a filesystem made from files. */
import { Option } from 'commander'
import type { Command } from 'commander'
import type { RootfsRequest } from '../../api/shapes.ts'
import { OperatingError } from '../../base/errors.ts'

export interface RootfsOptions {
  rootfs?: true
  fs: 'ext4'
  platform?: string
  tag?: string
}

export function addRootfsOptions(command: Command): Command {
  return command
    .option('--rootfs', 'the source is a folder, a tar archive or an OCI image layout')
    .addOption(
      new Option('--fs <kind>', 'of the filesystem, with --rootfs')
        .choices(['ext4'])
        .default('ext4'),
    )
    .option(
      '--platform <os/arch>',
      'of an OCI image, such as linux/arm64; this host’s if not given',
    )
    .option('--tag <tag>', 'of an OCI layout with several images')
}

/** Undefined: an image is meant. */
export function rootfsRequest(options: RootfsOptions): RootfsRequest | undefined {
  const { rootfs, fs, platform, tag } = options
  if (rootfs === undefined) {
    if (platform === undefined && tag === undefined) return undefined
    throw new OperatingError('usage', '--platform and --tag are of an OCI image', {
      hint: 'Add --rootfs.',
    })
  }
  return {
    fs,
    platform: platform ?? null,
    tag: tag ?? null,
  }
}
