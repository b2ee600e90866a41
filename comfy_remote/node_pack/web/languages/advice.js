// @ts-check
/**
 * What to do about an error of the server, by the code of its advice (`hint`). In English, and where a
 * code is missing here, the server's own words are shown (node_pack/advice.py).
 */

/** @type {Record<string, Record<string, string>>} */
export const advice = {
  "ja": {
    "resume_for_outputs": "ターミナルで再取得してください: comfy-remote jobs resume",
    "room_for_outputs": "空き容量を確保してから、ターミナルで出力を取得してください: comfy-remote jobs resume",
    "room_or_other_disk": "ComfyUI の出力フォルダーがあるディスクの空き容量を確保してから、ターミナルで出力を取得してください: comfy-remote jobs resume。残す空き容量は {variable} で設定します。",
    "output_size_limit": "サイズに問題がなければ、ComfyUI を起動する環境に {variable} (例: 200GB) を設定し、ComfyUI を再起動してワークフローをもう一度実行してください。",
    "other_folder": "ComfyUI の出力フォルダーを確認してください。",
    "writable_folder": "ComfyUI の出力フォルダーの権限を修正してください。",
    "link_out_of_folder": "そのリンクを削除してください。",
    "find_job": "ターゲットに届いているかどうかは、ターミナルで確認できます: comfy-remote jobs resume {job_id}",
    "resume_or_cancel": "出力はターミナルで取得できます: comfy-remote jobs resume {job_id}。停止する場合: comfy-remote jobs cancel {job_id}",
    "resume_with_time": "残りはターミナルで取得できます: comfy-remote jobs resume {job_id}。受信済みのものは再取得されません。",
    "resume_when_back": "復旧したら、ターミナルで出力を取得してください: comfy-remote jobs resume",
    "not_sent_again": "再送信はしていません。見つかった場合は、ターミナルで取得できます: comfy-remote jobs resume {job_id}。見つからない場合はアドレスを確認し、ワークフローをもう一度実行してください。",
    "record_damaged": "ファイルが破損しています。名前を変更すると新しい記録が作成されます。COMFY_REMOTE_HOME に別のフォルダーを設定することもできます。",
    "more_time": "タイムアウトを長くしてください。",
    "name_file": "ComfyUI の input フォルダーに入れてください。",
    "put_or_name_file": "ComfyUI の input フォルダーに入れてください。",
    "node_failed": "そのノードの入力を修正してください。",
    "other_target": "リモートパネルで別のターゲットを選択してください。",
    "worker_target": "runpod: または modal: のターゲットを選択してください。",
    "deployment_goes_on": "作成済みのものは残ります。もう一度同じ操作をすると、続きから実行されます。",
    "deploy_app": "デプロイ済みのアプリは `modal app list` で確認できます。ワークフローをアプリ {app} としてデプロイしてください。",
    "which_pod": "いずれかを選択してください: pod:{pod}",
    "trust_config": "内容を確認し、ターミナルで信頼してください: comfy-remote trust {path}。または {own} に記述してください。",
    "trust_env": "内容を確認し、ターミナルで信頼してください: comfy-remote trust {path}。または変数を {own} に記述してください。",
    "raise_cap": "上限を引き上げてください: {where}",
    "set_price": "{target} の 1 時間あたりの料金を設定してください: comfy-remote.toml の price_per_hour"
  },
  "zh": {
    "resume_for_outputs": "请在终端中重新获取：comfy-remote jobs resume",
    "room_for_outputs": "请先释放磁盘空间，然后在终端中获取输出：comfy-remote jobs resume",
    "room_or_other_disk": "请先释放 ComfyUI 输出文件夹所在磁盘的空间，然后在终端中获取输出：comfy-remote jobs resume。{variable} 决定保留多少空间。",
    "output_size_limit": "如果大小无误，请在启动 ComfyUI 的环境中设置 {variable}（例如 200GB），重启 ComfyUI 后重新运行工作流。",
    "other_folder": "请检查 ComfyUI 的输出文件夹。",
    "writable_folder": "请修正 ComfyUI 输出文件夹的权限。",
    "link_out_of_folder": "请删除该链接。",
    "find_job": "可在终端中确认目标是否已收到：comfy-remote jobs resume {job_id}",
    "resume_or_cancel": "可在终端中获取输出：comfy-remote jobs resume {job_id}。如需停止：comfy-remote jobs cancel {job_id}",
    "resume_with_time": "可在终端中获取其余部分：comfy-remote jobs resume {job_id}。已收到的不会再次获取。",
    "resume_when_back": "恢复后，请在终端中获取输出：comfy-remote jobs resume",
    "not_sent_again": "没有重新发送。如果任务出现，可在终端中获取：comfy-remote jobs resume {job_id}。否则请检查地址并重新运行工作流。",
    "record_damaged": "文件已损坏。重命名该文件即可新建记录，也可将 COMFY_REMOTE_HOME 设为其他文件夹。",
    "more_time": "请延长超时时间。",
    "name_file": "请将其放入 ComfyUI 的 input 文件夹。",
    "put_or_name_file": "请将其放入 ComfyUI 的 input 文件夹。",
    "node_failed": "请修正该节点的输入。",
    "other_target": "请在远程面板中选择其他目标。",
    "worker_target": "请选择 runpod: 或 modal: 目标。",
    "deployment_goes_on": "已创建的内容会保留。再次执行相同操作即可从中断处继续。",
    "deploy_app": "`modal app list` 可列出已部署的应用。请将工作流部署为应用 {app}。",
    "which_pod": "请选择其中之一：pod:{pod}",
    "trust_config": "请检查其内容，并在终端中信任：comfy-remote trust {path}。也可将其写入 {own}。",
    "trust_env": "请检查其内容，并在终端中信任：comfy-remote trust {path}。也可将变量写入 {own}。",
    "raise_cap": "请提高上限：{where}",
    "set_price": "请设置 {target} 的每小时价格：comfy-remote.toml 中的 price_per_hour"
  }
}
